"""The report's words: numbers as a person would say them, the opening paragraph, the standing limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.data import ReportData

STAGE_NAMES: Mapping[str, str] = {"codec": "Codec (VQ-GAN)", "diffusion": "Latent diffusion"}
_PARTS: Mapping[str, str] = {"codec": "codec", "diffusion": "diffusion model"}

TRAINING_NOTES = (
    "Sites sent parameters and averages of their losses, never volumes. That alone is no privacy guarantee: "
    "parameters trained without differential privacy can give away what they were trained on.",
)
PRIVATE_NOTES = (
    "Training was differentially private: at each site, whether any one patient took part changes the "
    "probability of anything that left by a factor of at most exp({epsilon:g}), but for delta {delta:g}, at "
    "{steps}, lost rounds included. {public_parts} from a public model.",
    "That epsilon is per run. It covers neither how the settings were chosen nor the measurements on this "
    "page, which were made on real patients without noise: this page is for researchers, not for release.",
)
METRIC_NOTES = (
    "One training seed. The intervals come from drawing the patients again; what another seed would have "
    "changed is not in them.",
    "The feature spaces are an untrained network and a hand-made descriptor. They see blur, noise, contrast "
    "and layout; they do not know anatomy, and no radiologist has looked at these volumes.",
)


def training_notes(promise: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return what the parameters can give away."""
    if promise is None:
        return TRAINING_NOTES
    stages = promise["stages"]
    steps = " and ".join(
        f"{stage['steps_paid_for']} steps of the {_PARTS[name]}" for name, stage in stages.items()
    )
    public = "The rest of both networks comes" if "codec" in stages else "Codec and rest of the denoiser come"
    return tuple(note.format(**promise, steps=steps, public_parts=public) for note in PRIVATE_NOTES)


def summary(data: ReportData) -> str:
    """Return what happened, in three plain sentences."""
    history = data.history
    if not history.rounds:
        return "No round is finished yet: there is nothing to show but the study."
    sites = history.sites
    seconds = sum(row.seconds for row in history.rounds)
    traffic = sum(row.bytes_up + row.bytes_down for row in history.rounds)
    counts = {stage: sum(row.stage == stage for row in history.rounds) for stage in history.stages}
    per_stage = [f"{plural(n, 'round')} for the {_PARTS.get(stage, stage)}" for stage, n in counts.items()]
    who = f"{plural(len(sites), 'site')} ({listed(sites)})"
    verb = "trained" if history.finished else "have been training"
    made = (
        f"The trained model then drew {plural(data.num_synthetic, 'synthetic volume')}."
        if data.num_synthetic
        else "No synthetic volumes have been drawn yet."
    )
    return (
        f"{who} {verb} one generator of 3D images, each on its own volumes: {listed(per_stage)}, "
        f"{duration(seconds)} in all. Between the sites and the server {bytes_in_words(traffic)} of model "
        f"parameters travelled, and no image. {made}"
    )


def readable(key: str) -> str:
    """Return the name of a metric, stage or setting for a reader."""
    return key.replace("_", " ")


def plural(count: int, noun: str) -> str:
    """Return "1 site" or "2 sites"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(items: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def bytes_in_words(count: int) -> str:
    """Return a number of bytes in decimal units."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
