"""What an experiment stands on: patients, and a source of volumes for every arm."""

import contextlib
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.errors import ConfigError
from common.study import Study
from experiments.segmentation.basis import basis_of
from experiments.segmentation.cohort import Cohort
from experiments.segmentation.few_shot import shortened
from experiments.segmentation.generators import generator_facts, is_trained, model_digest
from experiments.segmentation.plan import ArmConfig, SegmentationPlan
from experiments.segmentation.sources import (
    Noise,
    OneVolume,
    Phantoms,
    Real,
    Source,
    Synthetic,
    public_hospital,
)
from experiments.splits import PARTS
from experiments.study_file import load_study_file


@dataclass(frozen=True)
class Bench:
    """Where an experiment runs.

    Attributes:
        plan: What is run.
        study: Whose volumes these are.
        split: Which of them are of which patient and part.
        data: Folder of the volumes.
        runs: Folder of the generators' runs.
        folder: Of this experiment's files.
        device: Where networks are trained.
        labelled_study: Of generators that learn from a few labelled patients.
    """

    plan: SegmentationPlan
    study: Study
    split: Path
    data: Path
    runs: Path
    folder: Path
    device: torch.device
    labelled_study: Study | None = None

    @classmethod
    def of_files(
        cls,
        plan: SegmentationPlan,
        configs: Path,
        data: Path,
        runs: Path,
        folder: Path,
        device: torch.device,
    ) -> "Bench":
        """Return the bench of a plan's own study file and volumes.

        Args:
            plan: What is run.
            configs: Folder of the study files.
            data: Folder of all folders of volumes.
            runs: See `Bench`.
            folder: See `Bench`.
            device: See `Bench`.

        Raises:
            ConfigError: The study has no split.
        """
        file = configs / f"{plan.study}.yaml"
        study, simulation = load_study_file(file)
        if simulation.split is None:
            raise ConfigError(
                f"{file}: has no split", "give simulation.split, with the parts that are needed"
            )
        labelled = None
        if plan.labelled_study is not None:
            labelled = load_study_file(configs / f"{plan.labelled_study}.yaml")[0]
        return cls(plan, study, simulation.split, data / plan.data, runs, folder, device, labelled)

    def smoke(self) -> "Bench":
        """Return a version of minutes that runs every arm and proves nothing."""
        labelled = None if self.labelled_study is None else shortened(self.labelled_study)
        return replace(self, plan=self.plan.smoke(), labelled_study=labelled)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Between the study's voxels; None if exams keep their own."""
        volume = self.study.volume
        return None if "keep" in volume.spacing_mm else volume.written_spacing_mm

    def cohort(self, part: str) -> Cohort:
        """Return the patients of a part of the split.

        Raises:
            DataError: See `VolumeDataset.open`.
        """
        classes = self.plan.classes
        return Cohort.open(
            self.study, self.volumes_folder, self.split, part, self.folder / "cohorts", classes
        )

    @cached_property
    def volumes_folder(self) -> Path:
        """The data folder as a site would have it: with the label maps in ``labels``."""
        if self.plan.label_folder == "labels":
            return self.data
        places = f"{self.data.resolve()}\n{self.plan.label_folder}"
        place = hashlib.sha256(places.encode()).hexdigest()[:8]
        view = self.folder / "volumes" / place  # of these volumes and maps, and no others
        view.mkdir(parents=True, exist_ok=True)
        for name, content in (("images", "images"), ("labels", self.plan.label_folder)):
            with contextlib.suppress(FileExistsError):
                (view / name).symlink_to((self.data / content).resolve(), target_is_directory=True)
        return view

    def run_of(self, arm: ArmConfig) -> Path | None:
        """Return the folder of an arm's generator, if it has one."""
        return self.runs / arm.run if arm.run is not None else None

    @property
    def work(self) -> Path:
        """Where the jobs' files lie: those of this basis, and no others."""
        return self.folder / self.basis

    @cached_property
    def basis(self) -> str:
        """What tells figures of this plan, study, volumes, code and libraries from all others."""
        digests = [dataset.digest for part in PARTS for dataset in self.cohort(part).datasets]
        studies = [study for study in (self.study, self.labelled_study) if study is not None]
        return basis_of(self.plan, studies, digests)

    def key_of(self, arm: ArmConfig) -> str:
        """Return what tells an arm's networks from others: its settings, and which volumes it has.

        Raises:
            RunError: Its generator has no run.
        """
        run, folder = self.run_of(arm), self.folder_of(arm)
        if folder is not None:
            return f"{arm.key}-{folder.datasets[0].digest[:8]}"
        return arm.key if run is None else f"{arm.key}-{model_digest(run)[:8]}"

    def facts_of(self, arm: ArmConfig) -> dict[str, Any]:
        """Return an arm's key, how many different volumes it is pretrained on, and where they come from."""
        run, folder = self.run_of(arm), self.folder_of(arm)
        num = self.plan.num_volumes * arm.times if arm.pretrains else 0
        return {
            "key": arm.key,
            "volumes": 1 if arm.source == "one_volume" else num,
            "generator": None if run is None else generator_facts(run),
            "folder": None if folder is None else folder.datasets[0].digest,
        }

    def folder_of(self, arm: ArmConfig) -> Cohort | None:
        """Return the volumes of an arm's own folder, if it has one; each counts as a patient.

        Raises:
            DataError: See `VolumeDataset.open`.
        """
        if arm.folder is None:
            return None
        site = SiteConfig(
            name="folder",
            data=(self.runs / arm.folder).resolve(),
            one_exam_per_patient=True,
            state=(self.folder / "cohorts" / "folders" / arm.key).resolve(),
        )
        return Cohort(arm.name, (VolumeDataset.open(site, self.study.volume),), ())

    @property
    def missing(self) -> list[str]:
        """The arms whose folders of volumes are not there, or whose generators' runs did not end."""
        return [arm.name for arm in self.plan.arms if not self._is_there(arm)]

    def _is_there(self, arm: ArmConfig) -> bool:
        run = self.run_of(arm)
        if arm.folder is not None:
            return (self.runs / arm.folder).is_dir()
        return run is None or is_trained(run)

    def source_of(self, arm: ArmConfig) -> Source:
        """Return where an arm's volumes come from.

        Raises:
            ConfigError: It has none: it is trained from scratch.
        """
        folder = self.folder_of(arm)
        match arm.source:
            case "noise":
                return Noise(self.study.volume)
            case "phantoms":
                return Phantoms(self.study.volume, public_hospital(self.study.volume))
            case "real":
                return Real(self.cohort("generator"))
            case "folder" if folder is not None:
                return Real(folder)
            case "synthetic":
                return self.synthetic(arm)
            case "one_volume":
                return OneVolume(self.synthetic(arm))
        raise ConfigError(f"arm {arm.name} pretrains on nothing", "fine-tune it")

    def synthetic(self, arm: ArmConfig) -> Synthetic:
        """Return the volumes that an arm's generator makes.

        Raises:
            ConfigError: It has none.
        """
        run = self.run_of(arm)
        if run is None:
            raise ConfigError(f"arm {arm.name} has no generator", "give its `run`")
        return Synthetic(run, self.work / "synthetic" / self.key_of(arm), self.device)
