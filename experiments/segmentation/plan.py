"""What one segmentation experiment runs: a YAML file, read before anything is computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from common.errors import ConfigError
from common.frozen import FrozenModel, fingerprint, load_yaml, parse
from common.volume.labels import LabelClass
from experiments.segmentation.names import SCRATCH
from experiments.segmentation.network import NetworkConfig
from experiments.segmentation.pretext import PretextConfig
from experiments.segmentation.pretrain import ScheduleConfig

_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ,.+_-]*$"  # it names files too


class ArmConfig(FrozenModel):
    """What a network is pretrained on.

    Attributes:
        name: As tables call it.
        source: Of the volumes; ``scratch`` pretrains on nothing.
        run: For ``synthetic`` and ``one_volume``: the generator's run, below the folder of runs.
        folder: For ``folder``: any folder of volumes, below the folder of runs.
        times: As many volumes as the other arms, this many times.
        fine_tuning_times: As many steps of fine-tuning as the other arms, this many times.
        draw: Of parameters, order and augmentation in fine-tuning; patients stay. Two arms that differ in it
            alone differ by luck alone.
        teacher: Whose label maps fine-tuning learns from: those of the few ``labelled`` patients, those that
            a ``run`` makes with its volumes (``synthetic``), those of all patients that it learned from
            (``real``), or the few patients' and those of a generator that saw nobody else (``few``).
    """

    name: str = Field(pattern=_NAME)
    source: Literal["scratch", "noise", "phantoms", "one_volume", "synthetic", "real", "folder"]
    run: str | None = None
    folder: str | None = None
    times: int = Field(1, ge=1)
    fine_tuning_times: int = Field(1, ge=1)
    draw: int = Field(0, ge=0)
    teacher: Literal["labelled", "synthetic", "real", "few"] = "labelled"

    @property
    def pretrains(self) -> bool:
        """Whether a network learns from volumes before it learns from label maps."""
        return self.source != "scratch"

    @property
    def key(self) -> str:
        """The arm's name, and what tells it from another of that name."""
        return f"{self.name}-{fingerprint(self)[:8]}"

    @model_validator(mode="after")
    def _named(self) -> "ArmConfig":
        generated = self.source in ("synthetic", "one_volume") or self.teacher == "synthetic"
        if (self.run is not None) != generated:
            raise ValueError(
                f"arm {self.name}: synthetic volumes and copies of one, and no others, have a run"
            )
        if self.pretrains and self.teacher != "labelled":
            raise ValueError(f"arm {self.name}: another teacher goes with source scratch alone")
        if (self.folder is not None) != (self.source == "folder"):
            raise ValueError(f"arm {self.name}: `folder` belongs to source folder, and only to it")
        return self


class SegmentationPlan(FrozenModel):
    """One experiment.

    Every fine-tuning seed belongs to one pretraining seed and one sampling seed, so that all three are
    crossed: their number is a multiple of both numbers' product.

    Attributes:
        name: Of the experiment.
        study: Name of the study file beside this file, whose split and volumes are used.
        data: Folder of the volumes, below the folder of data.
        classes: What is segmented; all else in the label maps is background.
        label_folder: Beside ``images``, where the label maps lie.
        network: Which network.
        pretext: What it learns without labels.
        pretraining: For how long.
        fine_tuning: For how long.
        num_volumes: That an arm pretrains on.
        pretraining_seeds: Networks pretrained from each set of volumes.
        sampling_seeds: Sets of volumes from each source.
        seeds: Fine-tunings of each arm at each number of labels.
        secondary_seeds: If given, so many instead at every number of labels but the first.
        secondary_arms: If given, no others are fine-tuned at any number of labels but the first.
        labels: Numbers of labelled patients; the first is the primary one.
        arms: Scratch among them.
        also: Differences to report beside those from scratch and of the federation's arm: pairs of arms.
        standing: ``primary`` for the one experiment with a comparison that was fixed beforehand; in a
            ``secondary`` one every comparison is corrected for all others; a ``descriptive`` one shows how
            things look, and nothing is said to improve.
        weak_labels: Whether the labels are no expert's, which title and caption then say.
        labelled_study: For teacher ``few``: name of the study file of its generators, which have labels.
    """

    name: str = Field(pattern=_NAME)
    study: str
    data: str
    classes: tuple[LabelClass, ...] = Field(min_length=1)
    label_folder: str = "labels"
    network: NetworkConfig = NetworkConfig()
    pretext: PretextConfig = PretextConfig()
    pretraining: ScheduleConfig
    fine_tuning: ScheduleConfig
    num_volumes: int = Field(ge=2)
    pretraining_seeds: int = Field(ge=2)
    sampling_seeds: int = Field(ge=1)
    seeds: int = Field(ge=2)
    secondary_seeds: int | None = Field(None, ge=2)
    secondary_arms: tuple[str, ...] | None = Field(None, min_length=1)
    labels: tuple[PositiveInt, ...] = Field(min_length=1)
    arms: tuple[ArmConfig, ...] = Field(min_length=2)
    also: tuple[tuple[str, str], ...] = ()
    standing: Literal["primary", "secondary", "descriptive"] = "secondary"
    weak_labels: bool = False
    labelled_study: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "SegmentationPlan":
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or SCRATCH not in names:
            raise ValueError("arms need names of their own, and one of them is scratch")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a number stands there twice")
        meant = {"also": {name for pair in self.also for name in pair}}
        meant["secondary_arms"] = set(self.secondary_arms or ())
        for field, arms in meant.items():
            if unknown := sorted(arms - set(names)):
                raise ValueError(f"{field}: there is no arm {unknown[0]}")
        if (self.labelled_study is not None) != any(arm.teacher == "few" for arm in self.arms):
            raise ValueError("labelled_study belongs to arms with teacher few, and only to them")
        for seeds in {self.seeds_at(num_labels) for num_labels in self.labels}:
            if seeds % (self.pretraining_seeds * self.sampling_seeds):
                raise ValueError(
                    f"seeds: {seeds} is no multiple of {self.pretraining_seeds} x {self.sampling_seeds}"
                )
        return self

    @property
    def num_classes(self) -> int:
        """Labels, background included."""
        return len(self.classes) + 1

    @property
    def key(self) -> str:
        """What tells networks of this plan from those of another: all but arms, labels and seeds."""
        left_out = {
            "name": "",
            "arms": (),
            "also": (),
            "labels": (),
            "seeds": 0,
            "secondary_seeds": None,
            "secondary_arms": None,
            "standing": "secondary",
        }
        return fingerprint(self.model_copy(update=left_out))

    def arm(self, name: str) -> ArmConfig:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def without(self, names: Sequence[str]) -> "SegmentationPlan":
        """Return the plan without some arms."""
        arms = tuple(arm for arm in self.arms if arm.name not in names)
        also = tuple(pair for pair in self.also if not set(pair) & set(names))
        fewer = self.secondary_arms
        if fewer is not None:
            fewer = tuple(name for name in fewer if name not in names)
        return self.model_copy(update={"arms": arms, "also": also, "secondary_arms": fewer})

    def with_run(self, run: str) -> "SegmentationPlan":
        """Return the plan with every generator's run replaced."""
        arms = (arm if arm.run is None else arm.model_copy(update={"run": run}) for arm in self.arms)
        return self.model_copy(update={"arms": tuple(arms)})

    def smoke(self) -> "SegmentationPlan":
        """Return a version of minutes that runs every arm and proves nothing."""
        few = {
            "standing": "descriptive",
            "pretraining_seeds": 2,
            "sampling_seeds": 1,
            "seeds": 2,
            "secondary_seeds": None,
            "secondary_arms": None,
            "labels": self.labels[:1],
            "num_volumes": 4,
        }
        short = {"steps": 2, "batch_size": 2}
        changes = {
            "pretraining": self.pretraining.model_copy(update=short),
            "fine_tuning": self.fine_tuning.model_copy(update=short),
        }
        return self.model_copy(update=few | changes)

    def seeds_at(self, num_labels: int) -> int:
        """Return how many fine-tunings an arm has at a number of labels."""
        primary = num_labels == self.labels[0]
        return self.seeds if primary or self.secondary_seeds is None else self.secondary_seeds

    def arms_at(self, num_labels: int) -> tuple[ArmConfig, ...]:
        """Return the arms that are fine-tuned at a number of labels."""
        if num_labels == self.labels[0] or self.secondary_arms is None:
            return self.arms
        return tuple(arm for arm in self.arms if arm.name in self.secondary_arms)

    def fine_tunings_of(self, arm: str) -> list[tuple[int, int]]:
        """Return the number of labels and the seed of each fine-tuning of an arm."""
        return [
            (num_labels, seed)
            for num_labels in self.labels
            if arm in {one.name for one in self.arms_at(num_labels)}
            for seed in range(self.seeds_at(num_labels))
        ]

    def pretraining_of(self, seed: int) -> tuple[int, int]:
        """Return the pretraining seed and the sampling seed of a fine-tuning seed."""
        return seed % self.pretraining_seeds, seed // self.pretraining_seeds % self.sampling_seeds


def load_plan(path: Path) -> SegmentationPlan:
    """Return the plan in a file.

    Raises:
        ConfigError: The file is missing or says something that cannot be meant.
    """
    plan = parse(SegmentationPlan, load_yaml(path), where=str(path))
    if not (path.parent / f"{plan.study}.yaml").is_file():
        raise ConfigError(f"{path}: study: no {plan.study}.yaml beside it", "name a study file without .yaml")
    return plan
