"""What an experiment stands on: patients, and a source of volumes for every arm."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from common.errors import ConfigError
from common.study import Study
from experiments.privacy_utility.phantoms import stranger
from experiments.segmentation.cohort import Cohort
from experiments.segmentation.plan import ArmConfig, SegmentationPlan
from experiments.segmentation.sources import Noise, OneVolume, Phantoms, Real, Source, Synthetic
from experiments.study_file import load_study_file


@dataclass(frozen=True)
class Bench:
    """Where an experiment runs.

    Attributes:
        plan: What is run.
        configs: Folder of the study files.
        data: Folder of the volumes.
        runs: Folder of the generators' runs.
        folder: Of this experiment's files.
        device: Where networks are trained.
    """

    plan: SegmentationPlan
    configs: Path
    data: Path
    runs: Path
    folder: Path
    device: torch.device

    @cached_property
    def study(self) -> Study:
        """The study whose volumes these are."""
        return load_study_file(self.configs / f"{self.plan.study}.yaml")[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between the study's voxels."""
        return self.study.volume.written_spacing_mm

    def cohort(self, part: str) -> Cohort:
        """Return the patients of a part of the study's split.

        Raises:
            ConfigError: The study has no split.
        """
        file = self.configs / f"{self.plan.study}.yaml"
        split = load_study_file(file)[1].split
        if split is None:
            raise ConfigError(
                f"{file}: has no split", "give simulation.split, with the parts that are needed"
            )
        return Cohort.open(self.study, self.data / self.plan.data, split, part, self.folder / "cohorts")

    def run_of(self, arm: ArmConfig) -> Path | None:
        """Return the folder of an arm's generator, if it has one."""
        return self.runs / arm.run if arm.run is not None else None

    @property
    def missing(self) -> list[str]:
        """The arms whose generators' runs are not there."""
        runs = {arm.name: self.run_of(arm) for arm in self.plan.arms}
        return [name for name, run in runs.items() if run is not None and not (run / "run.json").is_file()]

    def source_of(self, arm: ArmConfig) -> Source:
        """Return where an arm's volumes come from.

        Raises:
            ConfigError: It has none: it is trained from scratch.
        """
        run = self.run_of(arm)
        match arm.source:
            case "noise":
                return Noise(self.study.volume)
            case "phantoms":
                return Phantoms(self.study.volume, stranger(self.study.volume))
            case "real":
                return Real(self.cohort("generator"))
            case "synthetic" if run is not None:
                return Synthetic(run, self._synthetic(arm), self.device)
            case "one_volume" if run is not None:
                return OneVolume(Synthetic(run, self._synthetic(arm), self.device))
        raise ConfigError(f"arm {arm.name} pretrains on nothing", "fine-tune it")

    def _synthetic(self, arm: ArmConfig) -> Path:
        return self.folder / "synthetic" / arm.name
