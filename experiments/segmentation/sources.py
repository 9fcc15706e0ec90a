"""Where an arm's unlabelled volumes come from: the arms differ in nothing else.

Each source gives any number of volumes of the study's shape in [-1, 1], as a function of that number and a
seed. Sources that learned from patients are synthetic or real; the others know nothing of any.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from common.errors import ConfigError, DataError
from common.federation.seeds import seeded_generator
from common.shapes import VolumeBatch
from common.volume.geometry import crop_or_pad
from common.volume.intensity import BACKGROUND, window_of
from common.volume.labels import LabelClass
from common.volume.spec import VolumeSpec
from experiments.phantom.exam import make_patient
from experiments.phantom.hospital import Hospital
from experiments.privacy_utility.phantoms import PUBLIC_HOSPITAL
from experiments.segmentation.cohort import Cohort
from experiments.segmentation.pairs import Pairs
from experiments.synthetic_set import make_synthetic_set, read_synthetic, read_synthetic_labels
from server.released_model import load_released_model
from server.run_folder import RunFolder


class Source(Protocol):
    """Gives volumes."""

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return ``num`` volumes on the CPU; the same for the same seed."""
        ...


@dataclass(frozen=True)
class Noise:
    """Independent uniform voxels: whatever a network gains from them is no anatomy.

    Attributes:
        spec: The study's volumes.
    """

    spec: VolumeSpec

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return noise."""
        shape = (num, self.spec.num_channels, *self.spec.shape)
        return 2 * torch.rand(shape, generator=seeded_generator(seed, "noise")) - 1


@dataclass(frozen=True)
class Phantoms:
    """Procedural breasts, voxel for voxel on the study's grid: anatomy, and nobody's.

    Attributes:
        spec: The study's volumes.
        hospital: Whose scanner and population.
    """

    spec: VolumeSpec
    hospital: Hospital

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return phantoms, with as many contrast phases as the study has channels."""
        return torch.stack([self._volume(index, seed) for index in range(num)])

    def _volume(self, index: int, seed: int) -> torch.Tensor:
        phases = make_patient(self.hospital, index, seed).channels[: self.spec.num_channels]
        if len(phases) < self.spec.num_channels:
            raise DataError(f"a phantom has {len(phases)} channels", "leave this arm out of the study")
        voxels = torch.stack([torch.from_numpy(phase).float() for phase in phases])
        normalized = window_of(voxels, self.spec).normalize(voxels)
        return crop_or_pad(normalized, self.spec.shape, fill=BACKGROUND)


def public_hospital(spec: VolumeSpec) -> Hospital:
    """Return the public phantom hospital with a scanner whose voxels fill the study's with a whole breast."""
    scanner = PUBLIC_HOSPITAL.scanner
    edges = [size * spacing for size, spacing in zip(scanner.shape, scanner.spacing_mm, strict=True)]
    spacing = tuple(edge / size for edge, size in zip(edges, spec.shape, strict=True))
    changes = {"shape": spec.shape, "spacing_mm": spacing}
    return PUBLIC_HOSPITAL.model_copy(update={"scanner": scanner.model_copy(update=changes)})


@dataclass(frozen=True)
class Synthetic:
    """What a run's model makes.

    Attributes:
        run: The run's folder.
        folder: Where volumes are written, one folder for each number and seed.
        device: Where they are made.
    """

    run: Path
    folder: Path
    device: torch.device

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return volumes as a recipient would read them, from NIfTI files."""
        return read_synthetic(self._made(num, seed), RunFolder.open(self.run).study())

    def pairs(self, num: int, seed: int, classes: tuple[LabelClass, ...]) -> Pairs:
        """Return volumes with the label maps that were made with them.

        Raises:
            ConfigError: The run's study has other classes.
        """
        study = RunFolder.open(self.run).study()
        if study.volume.labels != classes:
            raise ConfigError(
                f"the study of {self.run} has other classes than the plan",
                "write the same under volume.labels and classes",
            )
        folder = self._made(num, seed)
        return Pairs(read_synthetic(folder, study), read_synthetic_labels(folder, study))

    def _made(self, num: int, seed: int) -> Path:
        """Return the set's folder, after making what is missing of it."""
        folder = self.folder / f"{num}-{seed}"
        make_synthetic_set(load_released_model(RunFolder.open(self.run), self.device), folder, num, seed)
        return folder


@dataclass(frozen=True)
class OneVolume:
    """One volume of another source, again and again: no two patients to tell apart.

    Attributes:
        source: Of the volume.
    """

    source: Source

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return copies."""
        return self.source.volumes(1, seed).repeat(num, 1, 1, 1, 1)


@dataclass(frozen=True)
class Real:
    """Volumes of a cohort, without labels: what synthetic ones are to replace, or somebody's folder.

    Attributes:
        cohort: The patients.
    """

    cohort: Cohort

    def volumes(self, num: int, seed: int) -> VolumeBatch:
        """Return volumes in an order of the seed's.

        Raises:
            DataError: There are fewer.
        """
        volumes = self.cohort.volumes()
        if len(volumes) < num:
            raise DataError(
                f"{num} volumes are wanted of {len(volumes)} of the {self.cohort.name} patients",
                "let every arm have fewer",
            )
        return volumes[torch.randperm(len(volumes), generator=seeded_generator(seed, "real"))[:num]]
