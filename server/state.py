"""All that a run is, between two rounds: enough to go on as if nothing had happened."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from common.artifact import digest_of_tensors
from common.errors import RunError
from common.federation.seeds import seeded_generator
from common.federation.stage import Stage
from common.frozen_networks import CODEC_PREFIX, DENOISER_PREFIX, part_of, with_prefix
from common.study import Study
from common.study_networks import adapted_public_denoiser, study_codec
from server.initial import initial_codec, initial_denoiser


@dataclass(frozen=True)
class GlobalState:
    """The global model and the server's own state after ``round_index`` rounds of ``stage``.

    Attributes:
        stage: Stage that is being trained, or was trained last.
        round_index: Finished rounds of that stage.
        codec: Parameters of codec and discriminators, and codebook sums.
        denoiser: Trained parameters of the denoiser; empty before the diffusion stage, but in a private
            study, which begins with a public one.
        denoiser_average: Their moving average, which is released.
        denoiser_frozen: Those that are not trained: all of a public denoiser but the trainable set of a
            private study.
        optimizer: Moments of the server's optimizer, by name.
        ended: Whether the stage ended before its last round, because a site's privacy budget was spent.
    """

    stage: Stage
    round_index: int
    codec: Mapping[str, Tensor]
    denoiser: Mapping[str, Tensor] = field(default_factory=dict)
    denoiser_average: Mapping[str, Tensor] = field(default_factory=dict)
    denoiser_frozen: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    ended: bool = False

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The tensors that the current stage trains."""
        return self.codec if self.stage is Stage.CODEC else self.denoiser

    @property
    def frozen_codec(self) -> dict[str, Tensor]:
        """The codec without its discriminators, by the names of `Codec.state_dict`."""
        return part_of(self.codec, CODEC_PREFIX)

    @property
    def frozen(self) -> dict[str, Tensor]:
        """What the diffusion stage uses and does not train: the codec, and part of a private denoiser."""
        codec = with_prefix(self.frozen_codec, CODEC_PREFIX)
        return codec | with_prefix(self.denoiser_frozen, DENOISER_PREFIX)

    @property
    def frozen_digest(self) -> str:
        """SHA-256 of that."""
        return digest_of_tensors(self.frozen)

    @property
    def released_denoiser(self) -> dict[str, Tensor]:
        """The whole denoiser as it is released."""
        return {**self.denoiser_frozen, **self.denoiser_average}

    @property
    def model_digest(self) -> str:
        """SHA-256 of the model that is released: codec and denoiser."""
        codec = with_prefix(self.frozen_codec, CODEC_PREFIX)
        return digest_of_tensors(codec | with_prefix(self.released_denoiser, DENOISER_PREFIX))


def initial_state(study: Study) -> GlobalState:
    """Return the state before the first round: a pure function of the study.

    Raises:
        RunError: The study starts from a public model, which the study does not hold.
    """
    if study.privacy is not None:
        raise RunError("a private study starts from a public model", "name it: --start-from PUBLIC-RUN")
    generator = seeded_generator(study.seed, "initial", Stage.CODEC.value)
    return GlobalState(Stage.CODEC, 0, codec=initial_codec(study, generator))


def start_diffusion(state: GlobalState, study: Study) -> GlobalState:
    """Return the state that opens the diffusion stage after the last codec round."""
    if study.privacy is not None:  # it began with its denoiser
        return dataclasses.replace(state, stage=Stage.DIFFUSION, round_index=0, optimizer={}, ended=False)
    generator = seeded_generator(study.seed, "initial", Stage.DIFFUSION.value)
    denoiser = initial_denoiser(study, generator)
    return GlobalState(
        Stage.DIFFUSION, 0, codec=state.codec, denoiser=denoiser, denoiser_average=dict(denoiser)
    )


def start_from_public(public: GlobalState, study: Study) -> GlobalState:
    """Return the state that opens a private study: a public model with untrained additions.

    Args:
        public: State of the run that trained the public model.
        study: The private study.

    Raises:
        RunError: It is not the model that the study names, or does not fit its networks.
    """
    if study.privacy is None or public.model_digest != study.privacy.public_model:
        raise RunError(
            f"the public model is {public.model_digest}, not the one that the study names",
            "write that into privacy.public_model if it is the one that was agreed on",
        )
    generator = seeded_generator(study.seed, "initial", Stage.DIFFUSION.value)
    try:
        study_codec(study, public.frozen_codec)
        trained, frozen = adapted_public_denoiser(study, public.released_denoiser, generator)
    except RuntimeError:
        raise RunError(
            "the public model's codec or denoiser has other sizes than the study's",
            "take over diffusion.model.denoiser, condition and codec.model from the public study",
        ) from None
    return GlobalState(
        next(iter(study.private_plans)),
        0,
        codec=with_prefix(public.frozen_codec, CODEC_PREFIX),
        denoiser=trained,
        denoiser_average=dict(trained),
        denoiser_frozen=frozen,
    )


def is_finished(state: GlobalState, study: Study) -> bool:
    """Whether the last round of the last stage is done, or no more can be made."""
    last = state.round_index >= study.diffusion.training.rounds
    return state.stage is Stage.DIFFUSION and (last or state.ended)
