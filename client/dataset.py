"""The site's volumes as the study wants them: one exam, one volume, one patient each.

    dataset = VolumeDataset.open(site, study.volume)
    volumes = dataset.volumes()          # [exams, channels, x, y, z] in [-1, 1], in the order of
    patients = dataset.patients          # ... their patients

Opening reads and checks every file that has not been preprocessed before, so bad data is refused
before a round begins; later it is a matter of looking up files by size and date.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from client.exam_folder import ExamFiles, find_exams
from client.file_digests import FileDigests
from client.patient_table import TableRow, assign_patients, read_patient_table
from client.preprocess import PREPROCESSING_VERSION, preprocess
from client.site_config import SiteConfig
from client.volume_cache import VolumeCache, cache_key
from common.errors import DataError, DuplicatePatientError
from common.frozen import fingerprint
from common.shapes import VolumeBatch
from common.volume.labels import numbered, to_channels
from common.volume.spec import VolumeSpec


@dataclass(frozen=True)
class Exam:
    """One acquisition of one patient.

    Attributes:
        exam: Its name: the stem of its files.
        patient: The person; several exams may share one.
        files: One file per channel, in the study's order.
        label_file: Its label map, if the site has one.
        class_label: What the denoiser may be conditioned on, if the table says.
        digests: SHA-256 of each file, the label map's last.
    """

    exam: str
    patient: str
    files: tuple[Path, ...]
    label_file: Path | None
    class_label: int | None
    digests: tuple[str, ...]


@dataclass(frozen=True)
class VolumeDataset:
    """The exams of one site, checked, in the order of their names.

    Attributes:
        exams: Sorted by name.
        spec: What their volumes look like.
    """

    exams: tuple[Exam, ...]
    spec: VolumeSpec
    _cache: VolumeCache = field(repr=False, compare=False)

    @classmethod
    def open(cls, site: SiteConfig, spec: VolumeSpec) -> "VolumeDataset":
        """Return the site's exams after checking every file.

        Raises:
            DataError: A file, the folder or the patient table is not what the study needs; the
                subclass and the message say which and what to do.
            ArtifactError: The site's cache cannot be written.
        """
        listed = listed_exams(site, spec)
        cache = VolumeCache(site.cache_folder)
        digests = FileDigests(site.cache_folder)
        exams = tuple(_exam(files, row, digests) for files, row in listed)
        digests.save()
        _refuse_shared_images(exams)
        dataset = cls(exams, spec, cache)
        if spec.labels:
            dataset.refuse_unlabelled()
        for exam in exams:
            if dataset._key(exam) not in cache:
                dataset._preprocess(exam)
        return dataset

    def volumes(self) -> VolumeBatch:
        """Return all volumes, float32 in [-1, 1], in the order of `exams`."""
        return torch.stack([self._tensors(exam)["volume"] for exam in self.exams])

    def codec_volumes(self) -> VolumeBatch:
        """Return what the study's codec learns: all volumes, with their label maps if it has labels."""
        volumes, classes = self.volumes(), self.spec.labels
        if not classes:
            return volumes
        maps = to_channels(numbered(self.label_maps(), classes), self.spec.num_label_channels)
        return torch.cat([volumes, maps], dim=1)

    def label_maps(self) -> Int[Tensor, "batch x y z"]:
        """Return all label maps, in the order of `exams`; 0 is background and padding.

        Raises:
            DataError: An exam has none.
        """
        self.refuse_unlabelled()
        return torch.stack([self._tensors(exam)["label_map"] for exam in self.exams])

    def refuse_unlabelled(self) -> None:
        """Return if every exam has a label map.

        Raises:
            DataError: One has none.
        """
        missing = [exam.exam for exam in self.exams if exam.label_file is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.exams)} exams have no label map, such as {missing[0]}",
                "put one per exam into labels/ beside images/, under the exam's name",
            )

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each exam."""
        return tuple(exam.patient for exam in self.exams)

    @property
    def num_patients(self) -> int:
        """Number of different patients."""
        return len(set(self.patients))

    @property
    def image_digests(self) -> tuple[str, ...]:
        """SHA-256 of every image file, label maps left out."""
        return tuple(digest for exam in self.exams for digest in exam.digests[: len(exam.files)])

    @property
    def digest(self) -> str:
        """SHA-256 of what `volumes`, `label_maps` and `patients` return, in this order.

        It depends on the content of the files, their order, patients and classes, and the spec; not
        on where the folder lies, what the files are called, or when they were touched.
        """
        facts = [[e.patient, e.class_label, e.digests, e.label_file is not None] for e in self.exams]
        return cache_key([json.dumps(facts), fingerprint(self.spec), str(PREPROCESSING_VERSION)])

    def _key(self, exam: Exam) -> str:
        content = json.dumps([exam.digests, exam.label_file is not None])
        return cache_key([content, fingerprint(self.spec), str(PREPROCESSING_VERSION)])

    def _tensors(self, exam: Exam) -> dict[str, Tensor]:
        """Return the cached tensors of an exam, made again from its files if they were damaged."""
        return self._cache.load(self._key(exam)) or self._preprocess(exam)

    def _preprocess(self, exam: Exam) -> dict[str, Tensor]:
        """Return the tensors of an exam from its files, which must still be those that were hashed."""
        made = preprocess(exam.files, exam.label_file, self.spec)
        tensors = {"volume": made.volume}
        if made.label_map is not None:
            tensors["label_map"] = made.label_map
        if made.digests != exam.digests:
            raise DataError(
                f"files of exam {exam.exam} changed while they were in use",
                "let nothing write into the data folder, and start again",
            )
        self._cache.store(self._key(exam), tensors)
        return tensors


def listed_exams(site: SiteConfig, spec: VolumeSpec) -> list[tuple[ExamFiles, TableRow | None]]:
    """Return the files of the site's exams and their rows of the patient table; no volume is opened.

    Raises:
        DataError: The folder or the table is not what the study needs.
    """
    found = find_exams(site.data, spec.channels)
    if site.patients is None:
        return [(files, None) for files in found]
    rows = assign_patients(found, read_patient_table(site.patients), site.patients, site.select)
    return [(files, rows[files.exam]) for files in found if files.exam in rows]


def _exam(found: ExamFiles, row: TableRow | None, digests: FileDigests) -> Exam:
    """Return an exam with its patient; without a table it is its own patient."""
    files = found.files if found.label_file is None else (*found.files, found.label_file)
    return Exam(
        exam=found.exam,
        patient=row.patient if row is not None else found.exam,
        files=found.files,
        label_file=found.label_file,
        class_label=row.class_label if row is not None else None,
        digests=tuple(digests.of(path) for path in files),
    )


def _refuse_shared_images(exams: Sequence[Exam]) -> None:
    """Refuse one image under two patients: one person would count as two."""
    first: dict[str, tuple[Path, str]] = {}
    for exam in exams:
        for path, digest in zip(exam.files, exam.digests, strict=False):  # not the label map
            other_path, other_patient = first.setdefault(digest, (path, exam.patient))
            if other_patient != exam.patient:
                raise DuplicatePatientError(
                    f"{other_path} and {path} are the same image, but of patients {other_patient} and "
                    f"{exam.patient}",
                    "remove one, or give both the same patient in the patient table",
                )
