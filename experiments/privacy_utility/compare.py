"""The whole comparison, stage by stage; a second call goes on where the first stopped.

    1  public models                 phantoms; hippocampus
    2  which trainable set           phantoms that nobody else sees, epsilon 8
    3  phantom hospitals             25 to 1000 patients each: from which size on is epsilon 8 worth it
    4  hippocampus, headroom         epsilon infinity against public only
    5  hippocampus, epsilon 8, 3, 1

Without headroom there is nothing that noise could spoil: then 4 and 5 are tried again with a model of
phantoms alone as the public one.
"""

import time
from pathlib import Path
from typing import Any

from common.federation.config import TrainingConfig
from common.study import Study, load_study
from experiments.privacy_utility.analysis import gains, is_informative, overtakes_at, summary_of
from experiments.privacy_utility.cohort import Group, Replicate
from experiments.privacy_utility.hippocampus import Hippocampus
from experiments.privacy_utility.jobs import Bench, Job
from experiments.privacy_utility.phantoms import Phantoms
from experiments.privacy_utility.public_model import PublicModel, train_public_model
from experiments.privacy_utility.settings import (
    DELTA,
    INFINITE,
    PRIMARY_METRICS,
    PUBLIC_ONLY,
    Candidate,
    PhantomSize,
    Settings,
)
from server.run_folder import versions

CONFIGS = Path(__file__).parents[1] / "configs"
PHANTOM, HIPPOCAMPUS = "privacy_utility_phantom.yaml", "privacy_utility_hippocampus.yaml"


def compare_privacy(data: Path, bench: Bench) -> dict[str, Any]:
    """Return the results, training and measuring what is not done yet.

    Args:
        data: Folder with ``hippocampus-mri``.
        bench: Where, how much, and by how many processes.
    """
    started = time.monotonic()
    settings = bench.settings
    hippocampus = Hippocampus(
        data / "hippocampus-mri", bench.folder, settings
    )  # asked first: it may be missing
    phantoms = Phantoms(bench.folder / "phantoms", settings)
    open_hospital = phantoms.public()
    public = _public(bench, "phantom", PHANTOM, {open_hospital.site: open_hospital}, {})
    tried = _tried(bench, phantoms, public)
    best = min(tried, key=lambda name: tried[name]["metrics"][PRIMARY_METRICS[0]])
    chosen = next(candidate for candidate in settings.candidates if candidate.name == best)
    bench.say(f"chosen on phantoms: {best}")
    by_size = {size.patients: _phantom_size(bench, phantoms, public, size, chosen) for size in settings.sizes}
    subjects = hippocampus.public()
    strangers = phantoms.strangers(load_study(CONFIGS / HIPPOCAMPUS).volume)
    mri = _mri(bench, hippocampus, {subjects.site: subjects}, {"phantoms": strangers}, "hippocampus", chosen)
    results = {
        "command": "fedvox experiment run privacy-utility",
        "delta": DELTA,
        "primary_metrics": list(PRIMARY_METRICS),
        "versions": versions(),
        "rounds": settings.rounds,
        "tried_on_phantoms": {name: _short(figures) for name, figures in tried.items()},
        "chosen": best,
        "phantoms": {str(size): summary_of(figures) for size, figures in by_size.items()},
        "overtakes_at": overtakes_at(by_size),
        "hippocampus": mri,
    }
    if not mri["informative"]:
        bench.say("hippocampus: no headroom over public subjects; phantoms alone as public")
        results["hippocampus_from_phantoms"] = _mri(
            bench, hippocampus, {"phantoms": strangers}, {}, "strangers", chosen
        )
    results["seconds_of_this_call"] = round(time.monotonic() - started)
    return results


def _public(
    bench: Bench, name: str, config: str, subjects: dict[str, Group], for_codec: dict[str, Group]
) -> PublicModel:
    study = _shortened(load_study(CONFIGS / config), bench.settings)
    bench.say(f"public model: {name}")
    return train_public_model(study, bench.folder / "public" / name, subjects, for_codec)


def _shortened(study: Study, settings: Settings) -> Study:
    """Return the study with the settings' share of its rounds, at least one."""
    if settings.public_share == 1:
        return study

    def short(training: TrainingConfig) -> TrainingConfig:
        rounds = max(1, round(settings.public_share * training.rounds))
        steps = max(2, round(settings.public_share * training.local_steps))
        return training.model_copy(update={"rounds": rounds, "local_steps": steps})

    codec = study.codec.model_copy(update={"training": short(study.codec.training)})
    diffusion = study.diffusion.model_copy(update={"training": short(study.diffusion.training)})
    return study.model_copy(update={"codec": codec, "diffusion": diffusion})


def _tried(bench: Bench, phantoms: Phantoms, public: PublicModel) -> dict[str, dict[str, Any]]:
    replicate = phantoms.tuning(public.study)
    jobs = [Job(replicate, "8", candidate) for candidate in bench.settings.candidates]
    return dict(zip((job.candidate.name for job in jobs), bench.run(jobs, public), strict=True))


def _phantom_size(
    bench: Bench, phantoms: Phantoms, public: PublicModel, size: PhantomSize, chosen: Candidate
) -> list[dict[str, Any]]:
    replicates = [phantoms.replicate(size, seed, public.study) for seed in bench.settings.phantom_seeds]
    return bench.run(_jobs(replicates, (PUBLIC_ONLY, *size.arms), chosen), public)


def _mri(
    bench: Bench,
    hippocampus: Hippocampus,
    subjects: dict[str, Group],
    for_codec: dict[str, Group],
    name: str,
    chosen: Candidate,
) -> dict[str, Any]:
    """Return the comparison on MRI from one public model: headroom first, then the noisy arms."""
    settings = bench.settings
    public = _public(bench, name, HIPPOCAMPUS, subjects, for_codec)
    replicates = [
        hippocampus.replicate(fold, seed, public.study, name)
        for seed in settings.mri_seeds
        for fold in settings.folds
    ]
    headroom = bench.run(_jobs(replicates, (PUBLIC_ONLY, INFINITE), chosen), public)
    informative = is_informative(gains(headroom, INFINITE))
    noisy = tuple(arm for arm in settings.mri_arms if arm != INFINITE)
    figures = bench.run(_jobs(replicates, noisy, chosen), public) if informative else []
    return {"informative": informative, **summary_of([*headroom, *figures])}


def _jobs(replicates: list[Replicate], targets: tuple[str, ...], chosen: Candidate) -> list[Job]:
    return [Job(replicate, target, chosen) for replicate in replicates for target in targets]


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: figures[key] for key in ("trained_parameters", "noise_multiplier", "metrics")}
