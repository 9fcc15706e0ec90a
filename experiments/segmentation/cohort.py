"""Patients of one part of a split, and the rule that nobody who is tested was seen before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from client.dataset import Exam, VolumeDataset
from common.errors import DataError
from common.shapes import VolumeBatch
from common.study import Study
from common.volume.labels import LabelClass, LabelMaps, numbered
from experiments.baselines.measure import part_datasets
from experiments.segmentation.pairs import Pairs
from server.run_folder import RunFolder


class LeakageError(DataError):
    """A test patient was seen before the test. The message names one: it is for this site's eyes."""


@dataclass(frozen=True)
class Cohort:
    """Exams of some patients, from all sites of a study.

    Attributes:
        name: What they are for.
        datasets: One per site.
        classes: What its label maps tell apart.
    """

    name: str
    datasets: tuple[VolumeDataset, ...]
    classes: tuple[LabelClass, ...]

    @classmethod
    def open(
        cls,
        study: Study,
        data: Path,
        split: Path,
        part: str,
        folder: Path,
        classes: tuple[LabelClass, ...],
    ) -> "Cohort":
        """Return the patients of a part.

        Args:
            study: What their volumes look like, and its sites.
            data: Folder of volumes.
            split: The table that deals them out.
            part: Of the table.
            folder: For caches.
            classes: See `Cohort`.

        Raises:
            DataError: See `VolumeDataset.open`.
        """
        found = part_datasets(study, data.resolve(), split.resolve(), part, folder.resolve())
        return cls(part, tuple(found.values()), classes)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each exam."""
        return tuple(patient for dataset in self.datasets for patient in dataset.patients)

    @property
    def exams(self) -> tuple[Exam, ...]:
        """All exams, in the order of `patients`."""
        return tuple(exam for dataset in self.datasets for exam in dataset.exams)

    @property
    def patient_of_image(self) -> dict[str, str]:
        """The patient of each image, by the image's SHA-256."""
        return {digest: exam.patient for exam in self.exams for digest in exam.digests[: len(exam.files)]}

    @property
    def patient_of_volume(self) -> dict[str, str]:
        """The patient of each preprocessed volume, by the SHA-256 of its voxels."""
        voxels = (sha256(volume.numpy().tobytes()).hexdigest() for volume in self.volumes())
        return dict(zip(voxels, self.patients, strict=True))

    def volumes(self) -> VolumeBatch:
        """Return all volumes, in the order of `patients`."""
        return torch.cat([dataset.volumes() for dataset in self.datasets])

    def pairs(self, exams: Sequence[int] | None = None) -> Pairs:
        """Return the volumes and label maps of some exams, by their places in `patients`, or of all."""
        chosen = list(range(len(self.patients))) if exams is None else list(exams)
        return Pairs(self.volumes()[chosen], self.label_maps()[chosen])

    def label_maps(self) -> LabelMaps:
        """Return all label maps, in the order of `patients`: 1 for the first class, and so on."""
        stored = torch.cat([dataset.label_maps() for dataset in self.datasets])
        return numbered(stored, self.classes)


def refuse_leakage(test: Cohort, seen: Sequence[Cohort], runs: Mapping[str, Path], allowed: Cohort) -> None:
    """Return if no test patient is in another cohort, and no image of one in what a run was trained on.

    Nor may a run have learned from others than it was allowed to: from those with labels, or from more than
    the arm that is pretrained on real volumes. A public model that it began with may.

    Patients are compared by name: both sides of one person are that person. Cohorts are compared by their
    voxels too, so a copy under another name, or compressed anew, is the same image. Of what a run saw only
    the digests of files are known; it may have seen no file but those of ``allowed``.

    Args:
        test: Who is tested.
        seen: Whom something was pretrained, tuned or fine-tuned on.
        runs: Of the generators, by the names of their arms.
        allowed: Whom these may have learned from.

    Raises:
        LeakageError: Somebody is, or a run learned from others.
        DataError: A run does not say what it was trained on.
    """
    images, volumes = test.patient_of_image, test.patient_of_volume
    for cohort in seen:
        named = set(test.patients) & set(cohort.patients)
        copied = {volumes[digest] for digest in volumes.keys() & cohort.patient_of_volume.keys()}
        _refuse(named | copied, f"the {cohort.name} patients")
    for arm, run in runs.items():
        own, public = _trained_on(run, arm)
        _refuse({images[digest] for digest in images.keys() & (own | public)}, f"the generator of {arm}")
        strangers = own - allowed.patient_of_image.keys()
        if strangers:
            raise LeakageError(
                f"the generator of {arm} learned from {len(strangers)} images that are not of the "
                f"{allowed.name} patients",
                f"train it on them alone: parts: [{allowed.name}] of this very split",
            )


def refuse_unlabelled(test: Cohort) -> None:
    """Return if every test patient has at least one class, without which there is nothing to score.

    Raises:
        DataError: Some have none.
    """
    marked = (test.label_maps() > 0).flatten(1).any(dim=1).tolist()
    has = {patient for patient, found in zip(test.patients, marked, strict=True) if found}
    empty = set(test.patients) - has
    if empty:
        raise DataError(
            f"{len(empty)} test patients have no voxel of any class, so no score",
            "take them out of the split",
        )


def _trained_on(run: Path, arm: str) -> tuple[set[str], set[str]]:
    """Return the images that a run's networks saw, and those of the public model that it began with."""
    folder = RunFolder.open(run)
    source = folder.record()["source"]
    starts_from_unknown = folder.study().privacy is not None and "public_images" not in source
    if "images" not in source or starts_from_unknown:
        raise DataError(
            f"the generator of {arm}, {run}, does not say which images it was trained on",
            "train it on this machine, or leave the arm out",
        )
    return set(source["images"]), set(source.get("public_images", ()))


def _refuse(patients: set[str], where: str) -> None:
    if patients:
        raise LeakageError(
            f"{len(patients)} test patients are among {where}, such as {min(patients)}",
            "take them out of one of both, and start anew",
        )
