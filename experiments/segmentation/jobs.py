"""The kinds of jobs: make volumes, pretrain a network on them, fine-tune it on a few labelled patients.

Everything is a function of names: of the arm, the pretraining seed and the sampling seed; of the number of
labels and the fine-tuning seed, which draws patients, initialisation, order and augmentation alike for all
arms. Figures hold numbers of test patients in an order of the table's, no names.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.artifact import read_tensor_folder, write_tensor_folder
from common.federation.seeds import seeded_generator
from experiments.job_board import SomeJob
from experiments.segmentation.arms import Bench
from experiments.segmentation.finetune import finetune
from experiments.segmentation.plan import ArmConfig
from experiments.segmentation.pretext import num_outputs
from experiments.segmentation.pretrain import pretrain
from experiments.segmentation.scores import scores_of
from experiments.segmentation.teaching import taught_pairs

WEIGHTS, PRETRAINED = "backbone", "pretrained segmentation network"
Work = Callable[[SomeJob, Bench], dict[str, Any]]
_BATCH = 16  # test volumes at a time


@dataclass(frozen=True)
class Synthesis:
    """A set of volumes that a generator is to make, before several networks are pretrained on it.

    Attributes:
        arm: Whose.
        key: Of the arm; see `Bench.key_of`.
        sampling_seed: Of the volumes.
    """

    arm: ArmConfig
    key: str
    sampling_seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.key}-v{self.sampling_seed}"


@dataclass(frozen=True)
class Pretraining:
    """A network to pretrain.

    Attributes:
        arm: On whose volumes.
        key: Of the arm; see `Bench.key_of`.
        pretraining_seed: Of parameters, order and views.
        sampling_seed: Of the volumes.
    """

    arm: ArmConfig
    key: str
    pretraining_seed: int
    sampling_seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.key}-p{self.pretraining_seed}-v{self.sampling_seed}"


@dataclass(frozen=True)
class FineTuning:
    """A network to fine-tune and test.

    Attributes:
        arm: What it was pretrained on.
        key: Of the arm; see `Bench.key_of`.
        num_labels: Labelled patients.
        seed: Of patients, parameters, order and augmentation.
    """

    arm: ArmConfig
    key: str
    num_labels: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.key}-n{self.num_labels}-s{self.seed}"


def syntheses(bench: Bench) -> list[Synthesis]:
    """Return every set of volumes that a generator makes."""
    return [
        Synthesis(arm, key, sampling_seed)
        for arm, key in _keyed(bench)
        if arm.run is not None
        for sampling_seed in range(bench.plan.sampling_seeds)
    ]


def pretrainings(bench: Bench) -> list[Pretraining]:
    """Return every network that the plan pretrains."""
    plan = bench.plan
    return [
        Pretraining(arm, key, pretraining_seed, sampling_seed)
        for arm, key in _keyed(bench)
        if arm.pretrains
        for pretraining_seed in range(plan.pretraining_seeds)
        for sampling_seed in range(plan.sampling_seeds)
    ]


def fine_tunings(bench: Bench) -> list[FineTuning]:
    """Return every network that the plan fine-tunes, those of the primary number of labels first."""
    plan, keyed = bench.plan, _keyed(bench)
    return [
        FineTuning(arm, key, num_labels, seed)
        for num_labels in plan.labels
        for seed in range(plan.seeds_at(num_labels))
        for arm, key in keyed
        if arm in plan.arms_at(num_labels)
    ]


def _keyed(bench: Bench) -> list[tuple[ArmConfig, str]]:
    return [(arm, bench.key_of(arm)) for arm in bench.plan.arms]


def timed(job: SomeJob, work: Work[SomeJob], bench: Bench) -> dict[str, Any]:
    """Return what a job found, and the seconds that it took on its core."""
    started = time.process_time()
    figures = work(job, bench)
    return figures | {"seconds": round(time.process_time() - started, 2)}


def synthesize_one(job: Synthesis, bench: Bench) -> dict[str, Any]:
    """Make a set of volumes in the bench's folder; return how many."""
    num = 1 if job.arm.source == "one_volume" else bench.plan.num_volumes * job.arm.times
    volumes = bench.synthetic(job.arm).volumes(num, job.sampling_seed)
    return {"arm": job.arm.name, "volumes": len(volumes)}


def pretrain_one(job: Pretraining, bench: Bench) -> dict[str, Any]:
    """Pretrain a network into the bench's folder; return what tells how well it went."""
    plan = bench.plan
    num = plan.num_volumes * job.arm.times
    volumes = bench.source_of(job.arm).volumes(num, job.sampling_seed)
    generator = seeded_generator("pretraining", job.pretraining_seed)
    found = pretrain(volumes, plan.network, plan.pretext, plan.pretraining, generator, bench.device)
    facts = {
        "kind": PRETRAINED,
        "experiment": plan.name,
        "arm": job.arm.name,
        "network": plan.network.model_dump(),
        "channels": volumes.shape[1],
        "outputs": num_outputs(volumes.shape[1]),
        "volumes": len(volumes),
        "inpainting_loss": found.inpainting,
    }
    write_tensor_folder(pretrained_folder(bench, job), {WEIGHTS: found.weights}, facts)
    return {"arm": job.arm.name, "inpainting_loss": found.inpainting}


def fine_tune_one(job: FineTuning, bench: Bench) -> dict[str, Any]:
    """Fine-tune a network; return its scores: measure -> test patient -> class."""
    plan, test = bench.plan, bench.cohort("test")
    pairs = taught_pairs(job.arm, job.key, job.num_labels, job.seed, bench)
    steps = plan.fine_tuning.steps * job.arm.fine_tuning_times
    network = finetune(
        pairs.volumes,
        pairs.label_maps,
        plan.num_classes,
        plan.network,
        plan.fine_tuning.model_copy(update={"steps": steps}),
        seeded_generator("fine-tuning", job.seed, job.arm.draw),
        bench.device,
        _weights(job, bench),
    )
    with torch.no_grad():
        predicted = torch.cat(
            [
                network(batch.to(bench.device))[0].argmax(1).cpu()
                for batch in torch.split(test.volumes(), _BATCH)
            ]
        )
    scores = scores_of(predicted, test.label_maps(), plan.num_classes, bench.spacing_mm)
    pretraining_seed, sampling_seed = plan.pretraining_of(job.seed)
    return {
        "arm": job.arm.name,
        "labels": job.num_labels,
        "seed": job.seed,
        "pretraining_seed": pretraining_seed,
        "sampling_seed": sampling_seed,
        "label_maps": len(pairs),
        "scores": {name: by_patient(values, test.patients) for name, values in scores.items()},
    }


def by_patient(values: Tensor, patients: tuple[str, ...]) -> list[list[float]]:
    """Return each patient's mean over exams, by class, in the order of their names, which are left out.

    To six decimals: figures are kept as text, and nothing is known better.
    """
    exams = defaultdict(list)
    for index, patient in enumerate(patients):
        exams[patient].append(index)
    means = (values[exams[patient]].nanmean(dim=0).tolist() for patient in sorted(exams))
    return [[round(value, 6) for value in of_classes] for of_classes in means]


def pretrained_folder(bench: Bench, job: Pretraining) -> Path:
    """Return where a pretrained network lies."""
    return bench.work / "pretrained" / job.name


def _weights(job: FineTuning, bench: Bench) -> dict[str, Tensor] | None:
    if not job.arm.pretrains:
        return None
    start = Pretraining(job.arm, job.key, *bench.plan.pretraining_of(job.seed))
    return read_tensor_folder(pretrained_folder(bench, start))[0][WEIGHTS]
