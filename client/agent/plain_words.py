"""What a study would do with a site's patients, for the person who approves it."""

from client.approval import Approval
from client.policy import Policy
from client.private.ledger import Ledger
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import Reserve, spent_events
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
            steps = "one step" if schedule.local_steps == 1 else f"{schedule.local_steps} steps"
            words.append(f"{stage.value}: {_WORK[stage]}, in {schedule.rounds} rounds of {steps}")
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


def what_it_costs(study: Study, policy: Policy) -> list[str]:
    """Return what a private study would bring the site's ledger to, beside what all others spent.

    Raises:
        LedgerError: The ledger is not whole.
        AccountingError: The joint epsilon cannot be told.
    """
    if study.privacy is None or policy.ledger is None or policy.epsilon is None:
        return []
    if not Ledger.is_whole(policy.ledger):
        return [
            f"there is no ledger in {policy.ledger} yet: fedvox site ledger create, once in the site's life"
        ]
    reserved = [entry for entry in Ledger(policy.ledger).entries() if isinstance(entry, Reserve)]
    others = spent_events([entry for entry in reserved if entry.order.study != study.digest])
    before = epsilon(others, policy.delta) if others else 0.0
    after = epsilon([*others, *study.private_events], policy.delta)
    words = [
        f"in your ledger other studies have spent epsilon {before:.2f} at delta {policy.delta:g}; with all "
        f"of this one it would be {after:.2f}, and your policy allows {policy.epsilon:g}"
    ]
    if after > policy.epsilon:
        words.append("THIS STUDY WOULD END EARLY at your site: its last rounds are above what you allow")
    return words


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
