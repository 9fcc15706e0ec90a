"""The job matrix: every model trained and measured once, its figures in a file of its own.

A job whose file exists is done. Jobs that need an earlier one's answer (which trainable set, which public
model) come in stages.
"""

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.artifact import write_text_atomic
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
        waiting = [job for job in jobs if not self._file(job).is_file()]
        total, finished = len(jobs), len(jobs) - len(waiting)
        for job, figures in self._figures(waiting, public):
            write_text_atomic(self._file(job), json.dumps(figures, indent=1, sort_keys=True) + "\n")
            finished += 1
            self.say(f"{finished} of {total}: {job.name}")
        return [self._read(job) for job in jobs]

    def _figures(self, jobs: Sequence[Job], public: PublicModel) -> Iterable[tuple[Job, dict[str, Any]]]:
        if self.workers == 1:
            quiet_flower()
            for job in jobs:
                yield job, figures_of(job, public, self.folder, self.settings)
            return
        context = multiprocessing.get_context("spawn")  # a fork would share torch's thread pool
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_one_thread) as pool:
            futures = {pool.submit(figures_of, job, public, self.folder, self.settings): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()

    def _read(self, job: Job) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(self._file(job).read_text(encoding="utf-8"))
        return figures

    def _file(self, job: Job) -> Path:
        folder = self.folder / "jobs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{job.name}.json"


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


def _one_thread() -> None:
    torch.set_num_threads(1)
    quiet_flower()


def quiet_flower() -> None:
    """Keep Flower's aggregation from saying a line for every one of thousands of rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
