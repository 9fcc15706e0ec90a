"""Phantom hospitals: a public one, and three whose scanners and patients it does not know."""

import csv
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from common.artifact import write_bytes_atomic
from common.study import Study
from common.volume.spec import VolumeSpec
from experiments.phantom.exam import make_patient
from experiments.phantom.hospital import HOSPITALS, Hospital, Population, Scanner
from experiments.phantom.writer import write_hospital
from experiments.privacy_utility.cohort import Group, Replicate, write_table
from experiments.privacy_utility.settings import PhantomSize, Settings

TRAINING_SEED, TEST_SEED, TUNING_SEED, TUNING_TEST_SEED, PUBLIC_SEED = 11, 12, 13, 14, 15

STRANGE_SPACING = (5.2, 3.5, 5.2)  # a whole breast in 32 x 48 x 32 voxels

PUBLIC_HOSPITAL = Hospital(
    name="open",
    scanner=Scanner(
        shape=(46, 46, 46),
        spacing_mm=(3.6, 3.6, 3.6),
        gain=700.0,
        fat_suppression=0.79,
        noise=0.015,
        blur_mm=4.0,
        bias=0.09,
        coil_falloff=0.28,
    ),
    population=Population(
        density_shares=(0.0, 0.1, 0.4, 0.5),
        radius_mm=54.0,
        projection_mm=72.0,
        ptosis_mm=6.0,
        lesion_rate=0.2,
    ),
    num_patients=64,
)
"""Small and mostly dense breasts in an average scanner: some of what the three hospitals see, not all."""


def stranger(spec: VolumeSpec) -> Hospital:
    """Return the public hospital with a scanner whose voxels are those of another organ's study."""
    scanner = PUBLIC_HOSPITAL.scanner.model_copy(update={"shape": spec.shape, "spacing_mm": STRANGE_SPACING})
    return PUBLIC_HOSPITAL.model_copy(update={"scanner": scanner})


class Phantoms:
    """Phantoms on the disk, written when they are first asked for.

    Args:
        folder: Where to.
        settings: How many.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder.resolve()
        self.settings = settings

    def public(self) -> Group:
        """Return the public hospital's patients."""
        return self._group(PUBLIC_HOSPITAL, PUBLIC_SEED, range(self.settings.public_phantoms))

    def replicate(self, size: PhantomSize, seed: int, study: Study) -> Replicate:
        """Return hospitals of one size; another seed has other patients as far as there are enough."""
        first = seed * size.patients if (seed + 1) * size.patients <= self._most else 0
        indices = range(first, first + size.patients)
        return self._replicate(f"phantom-n{size.patients}-s{seed}", size, seed, study, indices)

    def tuning(self, study: Study) -> Replicate:
        """Return the hospitals that settings are chosen on; nobody else sees their patients."""
        size = self.settings.tuning
        return self._replicate("tuning", size, 0, study, range(size.patients), tuning=True)

    def strangers(self, spec: VolumeSpec) -> Group:
        """Return single-channel volumes of the public hospital, in the shape of another organ's study."""
        data, table = self.folder / "strangers", self.folder / "strangers.csv"
        hospital = stranger(spec)
        names = [f"stranger-{index:03d}" for index in range(self.settings.public_phantoms)]
        data.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            path = data / f"{name}.nii.gz"
            if not path.exists():
                volume = make_patient(hospital, index, PUBLIC_SEED).channels[0]
                image = nib.Nifti1Image(volume, np.eye(4))  # 1 mm voxels: the study would cut a breast's out
                write_bytes_atomic(path, gzip.compress(image.to_bytes(), 1))
        write_table(table, [(f"{name}.nii.gz", name, "phantoms", "public") for name in names])
        return Group(data, table, "phantoms", ("public",))

    @property
    def _most(self) -> int:
        return max(size.patients for size in self.settings.sizes)

    def _replicate(
        self,
        name: str,
        size: PhantomSize,
        seed: int,
        study: Study,
        indices: range,
        tuning: bool = False,
    ) -> Replicate:
        training, test = (TUNING_SEED, TUNING_TEST_SEED) if tuning else (TRAINING_SEED, TEST_SEED)
        unseen = range(self.settings.test_phantoms)
        return Replicate(
            name=name,
            unit=name,
            study=study,
            training={hospital.name: self._group(hospital, training, indices) for hospital in HOSPITALS},
            test=[self._group(hospital, test, unseen) for hospital in HOSPITALS],
            nominal_patients=size.patients,
            sampling_rate=size.sampling_rate,
            seed=seed,
        )

    def _group(self, hospital: Hospital, seed: int, indices: range) -> Group:
        """Return patients of a hospital by their indices; all that any job needs are written at once."""
        counts = {
            TRAINING_SEED: self._most,
            TUNING_SEED: self.settings.tuning.patients,
            PUBLIC_SEED: self.settings.public_phantoms,
        }
        num = counts.get(seed, self.settings.test_phantoms)
        data = self.folder / f"{hospital.name}-seed{seed}"
        table = self.folder / f"{hospital.name}-seed{seed}.csv"
        write_hospital(hospital.model_copy(update={"num_patients": num}), data, seed)
        if not table.exists():
            write_table(table, _rows(data, hospital.name))
        return Group(data, table, hospital.name, tuple(f"{index:03d}" for index in indices))


def _rows(data: Path, site: str) -> list[tuple[str, str, str, str]]:
    """Return the hospital's own table with the patient's index as part."""
    with (data / "patients.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["file"], row["patient"], site, row["patient"].rpartition("-")[2]) for row in rows]
