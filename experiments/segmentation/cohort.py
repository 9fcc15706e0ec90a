"""Patients of one part of a split, and the rule that nobody who is tested was seen before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from client.dataset import VolumeDataset
from common.errors import DataError
from common.shapes import VolumeBatch
from common.study import Study
from experiments.baselines.measure import part_datasets
from experiments.segmentation.scores import LabelMaps
from server.run_folder import RunFolder


class LeakageError(DataError):
    """A test patient was seen before the test. The message names one: it is for this site's eyes."""


@dataclass(frozen=True)
class Cohort:
    """Exams of some patients, from all sites of a study.

    Attributes:
        name: What they are for.
        datasets: One per site.
    """

    name: str
    datasets: tuple[VolumeDataset, ...]

    @classmethod
    def open(cls, study: Study, data: Path, split: Path, part: str, folder: Path) -> "Cohort":
        """Return the patients of a part.

        Args:
            study: What their volumes look like, and its sites.
            data: Folder of volumes.
            split: The table that deals them out.
            part: Of the table.
            folder: For caches.

        Raises:
            DataError: See `VolumeDataset.open`.
        """
        found = part_datasets(study, data.resolve(), split.resolve(), part, folder.resolve())
        return cls(part, tuple(found.values()))

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each exam."""
        return tuple(patient for dataset in self.datasets for patient in dataset.patients)

    @property
    def patient_of_image(self) -> dict[str, str]:
        """The patient of each image, by the image's SHA-256."""
        return {
            digest: exam.patient
            for dataset in self.datasets
            for exam in dataset.exams
            for digest in exam.digests[: len(exam.files)]
        }

    def volumes(self) -> VolumeBatch:
        """Return all volumes, in the order of `patients`."""
        return torch.cat([dataset.volumes() for dataset in self.datasets])

    def label_maps(self) -> LabelMaps:
        """Return all label maps, in the order of `patients`."""
        return torch.cat([dataset.label_maps() for dataset in self.datasets])


def refuse_leakage(test: Cohort, seen: Sequence[Cohort], runs: Mapping[str, Path]) -> None:
    """Return if no test patient is in another cohort, and no image of one in what a run was trained on.

    Patients are compared by name and their images by content: both sides of one person are that person, and
    a copy under another name is the same image.

    Args:
        test: Who is tested.
        seen: Whom something was pretrained, tuned or fine-tuned on.
        runs: Of the generators, by the names of their arms.

    Raises:
        LeakageError: Somebody is.
    """
    images = test.patient_of_image
    for cohort in seen:
        others = cohort.patient_of_image
        named = set(test.patients) & set(cohort.patients)
        copied = {images[digest] for digest in images.keys() & others.keys()}
        _refuse(named | copied, f"the {cohort.name} patients")
    for arm, run in runs.items():
        trained_on = RunFolder.open(run).record()["source"].get("images", ())
        _refuse({images[digest] for digest in images.keys() & set(trained_on)}, f"the generator of {arm}")


def _refuse(patients: set[str], where: str) -> None:
    if patients:
        raise LeakageError(
            f"{len(patients)} test patients are among {where}, such as {min(patients)}",
            "take them out of one of both, and start anew",
        )
