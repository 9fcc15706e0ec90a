"""The networks of a study, the denoiser built for what the study trains of it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.codec.codec import Codec
from common.diffusion.adapters import adapt
from common.diffusion.unet import UNetDenoiser, load_denoiser
from common.federation.seeds import seeded_generator
from common.study import Study


def shaped_codec(study: Study) -> Codec:
    """Return the codec with parameters that mean nothing, on the CPU."""
    generator = seeded_generator(study.seed, "shape only")
    return Codec(study.codec.model, study.volume.num_codec_channels, generator)


def study_codec(study: Study, state: Mapping[str, Tensor]) -> Codec:
    """Return the codec with parameters ``state``, on the CPU."""
    codec = shaped_codec(study)
    codec.load_state_dict(dict(state))
    return codec


def shaped_denoiser(study: Study) -> UNetDenoiser:
    """Return the denoiser with parameters that mean nothing; what is not trained takes no gradient."""
    return fresh_denoiser(study, seeded_generator(study.seed, "shape only"))


def fresh_denoiser(study: Study, generator: torch.Generator) -> UNetDenoiser:
    """Return the denoiser before its first step, on the CPU; what is not trained takes no gradient."""
    denoiser = UNetDenoiser(
        study.diffusion.model.denoiser, study.codec.model.code_dim, study.num_classes, generator
    )
    if study.privacy is not None:
        adapt(denoiser, study.privacy.trainable, generator)
    return denoiser


def study_denoiser(study: Study, state: Mapping[str, Tensor]) -> UNetDenoiser:
    """Return the denoiser with parameters ``state``, on the CPU; what is not trained takes no gradient."""
    denoiser = shaped_denoiser(study)
    denoiser.load_state_dict(dict(state))
    return denoiser


def adapted_public_denoiser(
    study: Study, public: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what a private study trains, and what it leaves as it was.

    Args:
        study: A study with differential privacy.
        public: Parameters of the public denoiser.
        generator: Source of the additions' initial values.
    """
    assert study.privacy is not None  # noqa: S101  callers open private studies only
    denoiser = load_denoiser(
        study.diffusion.model.denoiser, study.codec.model.code_dim, study.num_classes, dict(public)
    )
    trained = adapt(denoiser, study.privacy.trainable, generator)
    state = denoiser.state_dict()
    return (
        {name: state[name] for name in trained},
        {name: tensor for name, tensor in state.items() if name not in trained},
    )
