"""All that a run is, between two rounds: enough to go on as if nothing had happened."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from common.artifact import digest_of_tensors
from common.federation.messages import Stage
from common.federation.seeds import seeded_generator
from common.study import Study
from server.initial import initial_codec, initial_denoiser

CODEC_PREFIX = "codec."  # codec tensors among those of the codec stage; the rest are discriminators


@dataclass(frozen=True)
class GlobalState:
    """The global model and the server's own state after ``round_index`` rounds of ``stage``.

    Attributes:
        stage: Stage that is being trained, or was trained last.
        round_index: Finished rounds of that stage.
        codec: Parameters of codec and discriminators, and codebook sums.
        denoiser: Parameters of the denoiser; empty before the diffusion stage.
        denoiser_average: Their moving average, which is released.
        optimizer: Moments of the server's optimizer, by name.
    """

    stage: Stage
    round_index: int
    codec: Mapping[str, Tensor]
    denoiser: Mapping[str, Tensor] = field(default_factory=dict)
    denoiser_average: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The tensors that the current stage trains."""
        return self.codec if self.stage is Stage.CODEC else self.denoiser

    @property
    def frozen_codec(self) -> dict[str, Tensor]:
        """The codec without its discriminators, by the names of `Codec.state_dict`."""
        return {
            name.removeprefix(CODEC_PREFIX): tensor
            for name, tensor in self.codec.items()
            if name.startswith(CODEC_PREFIX)
        }

    @property
    def codec_digest(self) -> str:
        """SHA-256 of the frozen codec."""
        return digest_of_tensors(self.frozen_codec)


def initial_state(study: Study) -> GlobalState:
    """Return the state before the first round: a pure function of the study."""
    generator = seeded_generator(study.seed, "initial", Stage.CODEC.value)
    return GlobalState(Stage.CODEC, 0, codec=initial_codec(study, generator))


def start_diffusion(state: GlobalState, study: Study) -> GlobalState:
    """Return the state that opens the diffusion stage after the last codec round."""
    generator = seeded_generator(study.seed, "initial", Stage.DIFFUSION.value)
    denoiser = initial_denoiser(study, generator)
    return GlobalState(
        Stage.DIFFUSION, 0, codec=state.codec, denoiser=denoiser, denoiser_average=dict(denoiser)
    )


def is_finished(state: GlobalState, study: Study) -> bool:
    """Whether the last round of the last stage is done."""
    return state.stage is Stage.DIFFUSION and state.round_index >= study.diffusion.training.rounds
