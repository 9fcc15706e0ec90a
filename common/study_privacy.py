"""The privacy part of a study: what is trained privately, from which public model, at which price.

    privacy:
      epsilon: 8                     # joint, per site, for one patient added or removed
      delta: 1.0e-5
      public_model: 3f6c...          # what `fedvox study status --run PUBLIC-RUN` prints as model
      trainable: {kind: lora, rank: 1}
      diffusion: {sampling_rate: 0.1, nominal_patients: 300, noise_multiplier: 2.05, spare_rounds: 20}

Rounds and steps a round are those of the stage's training: what is run is what is paid for. With

      codec: {sampling_rate: 0.1, nominal_patients: 300, noise_multiplier: 2.4, where: decoder}

the public model's codec is trained on as well, before the denoiser; both stages then share the promise.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from common.diffusion.config import TrainableConfig
from common.frozen import FrozenModel
from common.privacy.events import NoiseMultiplier, SamplingRate
from common.privacy.plan import Delta, PrivacyPlan

ModelDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PrivateStage(FrozenModel):
    """How one stage is trained privately; see `PrivacyPlan` for each.

    Attributes:
        clip_norm: C.
        sampling_rate: q.
        nominal_patients: N of every site; public.
        noise_multiplier: sigma; `fedvox privacy plan` finds it.
        spare_rounds: Lost rounds that are paid for in advance.
        draws: Noise draws per volume.
    """

    clip_norm: PositiveFloat = 1.0
    sampling_rate: SamplingRate
    nominal_patients: PositiveInt
    noise_multiplier: NoiseMultiplier
    spare_rounds: NonNegativeInt = 0
    draws: PositiveInt = 4

    def plan(self, rounds: int, steps_per_round: int) -> PrivacyPlan:
        """Return the plan of a stage with this schedule."""
        return PrivacyPlan(rounds=rounds, steps_per_round=steps_per_round, **self.model_dump())


class PrivateCodecStage(PrivateStage):
    """How the codec is trained privately, without discriminators.

    Attributes:
        draws: 1: nothing is drawn for a volume.
        where: Part of the names of the trained parameters, such as ``decoder``; all by default.
    """

    draws: Literal[1] = 1
    where: str = ""

    def plan(self, rounds: int, steps_per_round: int) -> PrivacyPlan:
        """Return the plan of the stage with this schedule."""
        content = self.model_dump(exclude={"where"})
        return PrivacyPlan(rounds=rounds, steps_per_round=steps_per_round, **content)


class PrivacyConfig(FrozenModel):
    """Differential privacy for every patient of every site.

    Attributes:
        epsilon: What the study promises at most, over all its private stages and spare rounds.
        delta: Total delta of that.
        public_model: SHA-256 of the model, trained on public volumes only, that the sites start from.
        trainable: The few parameters of its denoiser that are trained.
        codec: The first private stage; absent, the public model's codec stays as it is.
        diffusion: The second.
    """

    epsilon: PositiveFloat
    delta: Delta
    public_model: ModelDigest
    trainable: TrainableConfig
    codec: PrivateCodecStage | None = None
    diffusion: PrivateStage
