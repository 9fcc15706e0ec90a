"""study.yaml: what all sites agree on, with the checks that need more than one part of it."""

import math
from pathlib import Path

from pydantic import Field, NonNegativeInt, model_validator

from common.codec.config import CodecConfig
from common.diffusion.config import DiffusionConfig
from common.federation.aggregation import WEIGHTED
from common.federation.config import FederationConfig, TrainingConfig
from common.federation.stage import Stage
from common.frozen import FrozenModel, fingerprint, load_yaml, parse
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian
from common.privacy.plan import PrivacyPlan
from common.study_privacy import PrivacyConfig
from common.volume.spec import VolumeSpec

_PRIVATE_QUANTIZERS = ("gradient", "fsq")


class CodecStage(FrozenModel):
    """First stage: the VQ-GAN and its schedule; without one it is taken from a public model."""

    model: CodecConfig = CodecConfig()
    training: TrainingConfig = TrainingConfig(rounds=0, local_steps=1)


class DiffusionStage(FrozenModel):
    """Second stage: the latent diffusion model and its schedule."""

    model: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig


class Study(FrozenModel):
    """Everything all sites agree on. Its hash is what a site approves and every artefact carries.

    Attributes:
        name: Short name; the run folder's default name.
        seed: Steers initialisation, batches and noise of non-private training, never privacy noise.
        volume: Shape, spacing and intensity of the volumes.
        codec: First stage.
        diffusion: Second stage.
        federation: Sites and aggregation.
        privacy: Patient-level differential privacy; absent, nothing is promised.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    seed: NonNegativeInt = 0
    volume: VolumeSpec
    codec: CodecStage
    diffusion: DiffusionStage
    federation: FederationConfig
    privacy: PrivacyConfig | None = None

    @model_validator(mode="after")
    def _latent_divides(self) -> "Study":
        for axis, size, factor in zip("xyz", self.volume.shape, self.codec.model.downsampling, strict=True):
            if size % factor:
                raise ValueError(
                    f"volume.shape along {axis} is {size}, which codec.model.downsampling {factor} does not "
                    f"divide: use {size - size % factor or factor} or {size + factor - size % factor}"
                )
        block = self.volume.num_codec_channels * math.prod(self.codec.model.downsampling)
        if self.codec.model.code_dim > block:
            raise ValueError(
                f"codec.model.quantizer has {self.codec.model.code_dim} channels for blocks of {block} "
                f"values: use at most {block}, or a stronger downsampling"
            )
        halvings = 2 ** (len(self.diffusion.model.denoiser.channels) - 1)
        for axis, size in zip("xyz", self.latent_shape, strict=True):
            if size % halvings:
                raise ValueError(
                    f"the latent has {size} positions along {axis}, which the denoiser halves "
                    f"{len(self.diffusion.model.denoiser.channels) - 1} times: use fewer levels in "
                    f"diffusion.model.denoiser.channels, or a volume.shape divisible by more"
                )
        return self

    @model_validator(mode="after")
    def _trains_what_it_must(self) -> "Study":
        if self.diffusion.training.rounds == 0:
            raise ValueError("diffusion.training.rounds is 0: give at least one round")
        if self.privacy is None and self.codec.training.rounds == 0:
            raise ValueError(
                "codec.training is missing or has no rounds: only a study with a `privacy` section may take "
                "its codec from a public model"
            )
        rule, quantizer = self.federation.aggregation.kind, self.codec.model.quantizer.kind
        if self.codec.training.rounds > 0 and quantizer == "ema" and rule not in WEIGHTED:
            raise ValueError(
                f"federation.aggregation {rule} has no meaning for the sums of codec.model.quantizer ema: "
                f"use {' or '.join(WEIGHTED)}, or the quantizer {' or '.join(_PRIVATE_QUANTIZERS)}"
            )
        if self.privacy is not None:
            self._trains_privately(self.privacy)
        return self

    def _trains_privately(self, privacy: PrivacyConfig) -> None:
        """Raise if a stage would be trained in a way that has no private form."""
        rounds, model = self.codec.training.rounds, self.codec.model
        if privacy.codec is None and rounds > 0:
            raise ValueError(
                "codec.training with a `privacy` section: the codec is taken from privacy.public_model as it "
                "is; leave codec.training out, or add privacy.codec"
            )
        if privacy.codec is not None and rounds == 0:
            raise ValueError("privacy.codec without codec.training: say how many rounds, or leave it out")
        if privacy.codec is not None and model.quantizer.kind not in _PRIVATE_QUANTIZERS:
            raise ValueError(
                f"codec.model.quantizer {model.quantizer.kind} has no private form: use "
                f"{' or '.join(_PRIVATE_QUANTIZERS)}, in the public model too"
            )
        if privacy.codec is not None and model.discriminator is not None:
            raise ValueError(
                "codec.model.discriminator has no private form: it would learn patients without noise; leave "
                "it out here, the public model may have had one"
            )
        if self.federation.strategy.kind == "fedprox":
            raise ValueError(
                "federation.strategy fedprox has no private form: use fedavg, fedavgm or fedadam"
            )

    @model_validator(mode="after")
    def _keeps_its_promise(self) -> "Study":
        if self.privacy is None:
            return self
        patients = max(plan.nominal_patients for plan in self.private_plans.values())
        if self.privacy.delta * patients >= 1:
            raise ValueError(
                f"privacy.delta {self.privacy.delta:g} for {patients} patients allows that one of them is "
                f"published outright: use less than {1 / patients:.1g}, better {0.01 / patients:.1g}"
            )
        spent = epsilon(self.private_events, self.privacy.delta)
        if not spent <= self.privacy.epsilon:
            stages = ", ".join(
                f"{stage.value} {plan.rounds} + {plan.spare_rounds} rounds of {plan.steps_per_round} steps"
                for stage, plan in self.private_plans.items()
            )
            raise ValueError(
                f"the private stages spend epsilon {spent:.3f} ({stages}), and privacy.epsilon promises "
                f"{self.privacy.epsilon:g}: raise noise_multiplier (see `fedvox privacy plan`), or take "
                "fewer rounds"
            )
        return self

    def schedule_of(self, stage: Stage) -> TrainingConfig:
        """Return the schedule of ``stage``."""
        return self.codec.training if stage is Stage.CODEC else self.diffusion.training

    @property
    def private_plans(self) -> dict[Stage, PrivacyPlan]:
        """What each private stage does, in the order they run; empty without differential privacy."""
        if self.privacy is None:
            return {}
        private = {Stage.CODEC: self.privacy.codec, Stage.DIFFUSION: self.privacy.diffusion}
        schedules = {stage: self.schedule_of(stage) for stage in private}
        return {
            stage: how.plan(schedules[stage].rounds, schedules[stage].local_steps)
            for stage, how in private.items()
            if how is not None
        }

    @property
    def private_events(self) -> tuple[SampledGaussian, ...]:
        """What all private stages cost, spare rounds included."""
        return tuple(plan.event for plan in self.private_plans.values())

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Positions of the latent along x, y, z."""
        x, y, z = (s // f for s, f in zip(self.volume.shape, self.codec.model.downsampling, strict=True))
        return x, y, z

    @property
    def num_classes(self) -> int:
        """Classes that the denoiser is conditioned on; 0 without a condition."""
        condition = self.diffusion.model.condition
        match condition.kind:
            case "none":
                return 0
            case "site":
                return len(self.federation.sites)
            case "class":
                return condition.num_classes or 0

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return fingerprint(self)


def load_study(path: Path) -> Study:
    """Return the study in ``path``.

    Raises:
        ConfigError: The file is missing or says something that cannot be meant.
    """
    return parse(Study, load_yaml(path), where=str(path))
