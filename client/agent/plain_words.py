"""What a study would do with a site's patients, for the person who approves it."""

from client.approval import Approval
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.study import Study

_WORK = {
    Stage.CODEC: "a network learns to compress and restore your volumes",
    Stage.DIFFUSION: "a network learns to draw new ones",
}


def in_plain_words(study: Study) -> list[str]:
    """Return the facts, a sentence each."""
    shape, spacing = (
        " x ".join(map(str, values)) for values in (study.volume.shape, study.volume.spacing_mm)
    )
    words = [
        f"study {study.name}, sites: {', '.join(study.federation.sites)}",
        f"your volumes are brought to {shape} voxels ({spacing} mm) and stay at your site",
    ]
    if labels := [one.name for one in study.volume.labels]:
        words.append(f"the networks learn your label maps with them: {', '.join(labels)}")
    for stage in Stage:
        schedule = study.schedule_of(stage)
        if schedule.rounds:
            words.append(
                f"{stage.value}: {_WORK[stage]}, in {schedule.rounds} rounds of {schedule.local_steps} steps"
            )
    words.append(f"a round goes on without sites that are missing, down to {study.federation.quorum} of them")
    if study.privacy is None:
        words += [
            "after every round the network's weights leave, with losses and times: NO PRIVACY IS PROMISED",
            "weights can reveal the patients they were trained on",
        ]
        return words
    spent = epsilon(study.private_events, study.privacy.delta)
    return [
        *words,
        f"every patient's presence is protected within epsilon {spent:.2f} at delta {study.privacy.delta:g}, "
        "over all rounds; your ledger adds it to what other studies spent",
        "after every round weights with noise leave, and digests of ledger lines: no loss, no time, no count",
        f"the starting model is public and has the SHA-256 {study.privacy.public_model}",
    ]


def changes(study: Study, approvals: list[Approval]) -> list[str]:
    """Return what is different from the last approved version of the study; nothing without one."""
    earlier = [approval.study for approval in approvals if approval.study.name == study.name]
    if not earlier or earlier[-1] == study:
        return []
    before, now = (_flat(one.model_dump(mode="json")) for one in (earlier[-1], study))
    return [
        f"{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _flat(content: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings by dotted names."""
    if not isinstance(content, dict):
        return {prefix: content}
    found: dict[str, object] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
