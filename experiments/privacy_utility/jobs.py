"""The job matrix: every model trained and measured once.

Jobs that need an earlier one's answer (which trainable set, which public model) come in stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.job_board import JobBoard
from experiments.privacy_utility.arm import private_study, train_arm
from experiments.privacy_utility.cohort import Replicate
from experiments.privacy_utility.measure import denoising_loss, floors, generation_distances, measured_on
from experiments.privacy_utility.public_model import PublicModel
from experiments.privacy_utility.settings import PUBLIC_ONLY, Candidate, Settings
from server.released_model import released_model

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """One model to train and measure.

    Attributes:
        replicate: On whom.
        target: Epsilon, ``inf``, or ``public`` for the public model as it is.
        candidate: Trainable set and learning rate.
    """

    replicate: Replicate
    target: str
    candidate: Candidate

    @property
    def name(self) -> str:
        """Name of its file."""
        what = PUBLIC_ONLY if self.target == PUBLIC_ONLY else f"eps{self.target}-{self.candidate.name}"
        return f"{self.replicate.name}-{what}"


@dataclass(frozen=True)
class Bench:
    """Where jobs run.

    Attributes:
        folder: Their files, runs and caches.
        settings: How much is run.
        workers: Processes, of one thread each.
        say: Told what is being done.
    """

    folder: Path
    settings: Settings
    workers: int
    say: Callable[[str], None]

    def run(self, jobs: Sequence[Job], public: PublicModel) -> list[dict[str, Any]]:
        """Return the figures of all jobs, in their order, after running those that are not done."""
        work = partial(figures_of, public=public, folder=self.folder, settings=self.settings)
        return JobBoard(self.folder / "jobs", self.workers, self.say).run(jobs, work)


def figures_of(job: Job, public: PublicModel, folder: Path, settings: Settings) -> dict[str, Any]:
    """Return what is measured of one job's model."""
    replicate = job.replicate
    if job.target == PUBLIC_ONLY:
        model, trained = released_model(public.study, public.state, CPU), 0
        noise = None
    else:
        study = private_study(replicate, public, job.candidate, job.target, settings)
        state = train_arm(study, replicate, public, folder / "runs" / job.name)
        model = released_model(study, state, CPU)
        trained = sum(tensor.numel() for tensor in state.denoiser.values())
        noise = study.privacy.diffusion.noise_multiplier if study.privacy is not None else None
    real, test = measured_on(replicate, folder / "measured" / job.name)
    by_patient = denoising_loss(model, test, settings)
    return {
        "replicate": replicate.name,
        "unit": replicate.unit,
        "target": job.target,
        "candidate": job.candidate.name,
        "trained_parameters": trained,
        "noise_multiplier": noise,
        "test_patients": len(by_patient),
        "metrics": {
            "denoising loss": sum(by_patient.values()) / len(by_patient),
            **generation_distances(model, real, replicate.seed, settings),
        },
        "floors": floors(real),
    }
