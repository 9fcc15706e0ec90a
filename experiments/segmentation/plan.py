"""What one segmentation experiment runs: a YAML file, read before anything is computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.errors import ConfigError
from common.frozen import FrozenModel, fingerprint, load_yaml, parse
from experiments.segmentation.network import NetworkConfig
from experiments.segmentation.pretext import PretextConfig
from experiments.segmentation.pretrain import ScheduleConfig

SCRATCH = "scratch"


class ArmConfig(FrozenModel):
    """What a network is pretrained on.

    Attributes:
        name: As tables call it.
        source: Of the volumes; ``scratch`` pretrains on nothing.
        run: For ``synthetic``: the folder of the generator's run, below the folder of runs.
        times: As many volumes as the other arms, this many times.
    """

    name: str
    source: Literal["scratch", "noise", "phantoms", "one_volume", "synthetic", "real"]
    run: str | None = None
    times: int = Field(1, ge=1)

    @property
    def key(self) -> str:
        """The arm's name, and what tells it from another of that name."""
        return f"{self.name}-{fingerprint(self)[:8]}"

    @model_validator(mode="after")
    def _named(self) -> "ArmConfig":
        if (self.run is not None) != (self.source in ("synthetic", "one_volume")):
            raise ValueError(
                f"arm {self.name}: synthetic volumes and copies of one, and no others, have a run"
            )
        return self


class SegmentationPlan(FrozenModel):
    """One experiment.

    Every fine-tuning seed belongs to one pretraining seed and one sampling seed, so that all three are
    crossed: ``seeds`` is a multiple of both numbers' product.

    Attributes:
        name: Of the experiment.
        study: Name of the study file beside this file, whose split and volumes are used.
        data: Folder of the volumes, below the folder of data.
        classes: Names of the labels 1, 2, ...
        network: Which network.
        pretext: What it learns without labels.
        pretraining: For how long.
        fine_tuning: For how long.
        num_volumes: That an arm pretrains on.
        pretraining_seeds: Networks pretrained from each set of volumes.
        sampling_seeds: Sets of volumes from each source.
        seeds: Fine-tunings of each arm at each number of labels.
        labels: Numbers of labelled patients; the first is the primary one.
        arms: Scratch among them.
        weak_labels: Whether the labels are no expert's, which title and caption then say.
    """

    name: str
    study: str
    data: str
    classes: tuple[str, ...] = Field(min_length=1)
    network: NetworkConfig = NetworkConfig()
    pretext: PretextConfig = PretextConfig()
    pretraining: ScheduleConfig
    fine_tuning: ScheduleConfig
    num_volumes: int = Field(ge=2)
    pretraining_seeds: int = Field(ge=2)
    sampling_seeds: int = Field(ge=1)
    seeds: int = Field(ge=2)
    labels: tuple[int, ...] = Field(min_length=1)
    arms: tuple[ArmConfig, ...] = Field(min_length=2)
    weak_labels: bool = False

    @model_validator(mode="after")
    def _sound(self) -> "SegmentationPlan":
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or SCRATCH not in names:
            raise ValueError("arms need names of their own, and one of them is scratch")
        if self.seeds % (self.pretraining_seeds * self.sampling_seeds):
            raise ValueError(
                f"seeds: {self.seeds} is no multiple of {self.pretraining_seeds} x {self.sampling_seeds}"
            )
        return self

    @property
    def num_classes(self) -> int:
        """Labels, background included."""
        return len(self.classes) + 1

    @property
    def key(self) -> str:
        """What tells networks of this plan from those of another: all but arms, labels and seeds."""
        return fingerprint(self.model_copy(update={"name": "", "arms": (), "labels": (), "seeds": 0}))[:12]

    def arm(self, name: str) -> ArmConfig:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def without(self, names: Sequence[str]) -> "SegmentationPlan":
        """Return the plan without some arms."""
        return self.model_copy(update={"arms": tuple(arm for arm in self.arms if arm.name not in names)})

    def smoke(self) -> "SegmentationPlan":
        """Return a version of minutes that runs every arm and proves nothing."""
        few = {
            "pretraining_seeds": 2,
            "sampling_seeds": 1,
            "seeds": 2,
            "labels": self.labels[:1],
            "num_volumes": 4,
        }
        short = {"steps": 2, "batch_size": 2}
        changes = {
            "pretraining": self.pretraining.model_copy(update=short),
            "fine_tuning": self.fine_tuning.model_copy(update=short),
        }
        return self.model_copy(update=few | changes)

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
