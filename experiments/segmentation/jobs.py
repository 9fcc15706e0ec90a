"""The two kinds of jobs: pretrain a network on an arm's volumes, fine-tune it on a few labelled patients.

Everything is a function of names: of the arm, the pretraining seed and the sampling seed; of the number of
labels and the fine-tuning seed, which draws patients, initialisation, order and augmentation alike for all
arms. Figures hold numbers of test patients in an order of the table's, no names.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.artifact import read_tensor_folder, write_tensor_folder
from common.errors import DataError
from common.federation.seeds import seeded_generator
from experiments.segmentation.arms import Bench
from experiments.segmentation.cohort import Cohort
from experiments.segmentation.finetune import finetune
from experiments.segmentation.plan import SCRATCH, ArmConfig, SegmentationPlan
from experiments.segmentation.pretrain import pretrain
from experiments.segmentation.scores import scores_of

WEIGHTS = "backbone"
_BATCH = 16  # test volumes at a time


@dataclass(frozen=True)
class Pretraining:
    """A network to pretrain.

    Attributes:
        arm: On whose volumes.
        pretraining_seed: Of parameters, order and views.
        sampling_seed: Of the volumes.
    """

    arm: ArmConfig
    pretraining_seed: int
    sampling_seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.arm.key}-p{self.pretraining_seed}-v{self.sampling_seed}"


@dataclass(frozen=True)
class FineTuning:
    """A network to fine-tune and test.

    Attributes:
        arm: What it was pretrained on.
        num_labels: Labelled patients.
        seed: Of patients, parameters, order and augmentation.
    """

    arm: ArmConfig
    num_labels: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.arm.key}-n{self.num_labels}-s{self.seed}"


def pretrainings(plan: SegmentationPlan) -> list[Pretraining]:
    """Return every network that the plan pretrains."""
    return [
        Pretraining(arm, pretraining_seed, sampling_seed)
        for arm in plan.arms
        if arm.name != SCRATCH
        for pretraining_seed in range(plan.pretraining_seeds)
        for sampling_seed in range(plan.sampling_seeds)
    ]


def fine_tunings(plan: SegmentationPlan) -> list[FineTuning]:
    """Return every network that the plan fine-tunes, those of the primary number of labels first."""
    return [
        FineTuning(arm, num_labels, seed)
        for num_labels in plan.labels
        for seed in range(plan.seeds)
        for arm in plan.arms
    ]


def pretrain_one(job: Pretraining, bench: Bench) -> dict[str, Any]:
    """Pretrain a network into the bench's folder; return what tells how well it went."""
    plan = bench.plan
    volumes = bench.source_of(job.arm).volumes(plan.num_volumes * job.arm.times, job.sampling_seed)
    generator = seeded_generator("pretraining", job.pretraining_seed)
    found = pretrain(volumes, plan.network, plan.pretext, plan.pretraining, generator, bench.device)
    facts = {
        "kind": "pretrained segmentation network",
        "experiment": plan.name,
        "arm": job.arm.name,
        "network": plan.network.model_dump(),
        "volumes": len(volumes),
        "inpainting_loss": found.inpainting,
    }
    write_tensor_folder(pretrained_folder(bench.folder, job), {WEIGHTS: found.weights}, facts)
    return {"name": job.name, "inpainting_loss": found.inpainting}


def fine_tune_one(job: FineTuning, bench: Bench) -> dict[str, Any]:
    """Fine-tune a network; return its scores: measure -> test patient -> class."""
    plan, labelled, test = bench.plan, bench.cohort("labelled"), bench.cohort("test")
    chosen = labelled_exams(labelled, job.num_labels, job.seed)
    network = finetune(
        labelled.volumes()[chosen],
        labelled.label_maps()[chosen],
        plan.num_classes,
        plan.network,
        plan.fine_tuning,
        seeded_generator("fine-tuning", job.seed),
        bench.device,
        _weights(job, bench),
    )
    with torch.no_grad():
        predicted = torch.cat(
            [network(batch.to(bench.device))[0].argmax(1).cpu() for batch in test.volumes().split(_BATCH)]
        )
    scores = scores_of(predicted, test.label_maps(), plan.num_classes, bench.spacing_mm)
    pretraining_seed, sampling_seed = plan.pretraining_of(job.seed)
    return {
        "arm": job.arm.name,
        "labels": job.num_labels,
        "seed": job.seed,
        "pretraining_seed": pretraining_seed,
        "sampling_seed": sampling_seed,
        "scores": {name: by_patient(values, test.patients) for name, values in scores.items()},
    }


def labelled_exams(labelled: Cohort, num: int, seed: int) -> list[int]:
    """Return one exam each of some labelled patients, drawn by the seed alone.

    Raises:
        DataError: There are fewer patients.
    """
    names = sorted(set(labelled.patients))
    if len(names) < num:
        raise DataError(f"{num} labelled patients are wanted of {len(names)}", "lower `labels` in the plan")
    generator = seeded_generator("labelled patients", seed)
    drawn = [names[index] for index in torch.randperm(len(names), generator=generator)[:num].tolist()]
    return [labelled.patients.index(name) for name in drawn]


def by_patient(values: Tensor, patients: tuple[str, ...]) -> list[list[float]]:
    """Return each patient's mean over exams, by class, in the order of their names, which are left out."""
    exams = defaultdict(list)
    for index, patient in enumerate(patients):
        exams[patient].append(index)
    return [values[exams[patient]].nanmean(dim=0).tolist() for patient in sorted(exams)]


def pretrained_folder(folder: Path, job: Pretraining) -> Path:
    """Return where a pretrained network lies."""
    return folder / "pretrained" / job.name


def _weights(job: FineTuning, bench: Bench) -> dict[str, Tensor] | None:
    if job.arm.name == SCRATCH:
        return None
    folder = pretrained_folder(bench.folder, Pretraining(job.arm, *bench.plan.pretraining_of(job.seed)))
    return read_tensor_folder(folder)[0][WEIGHTS]
