"""The denoiser of a study, built for what the study trains of it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.diffusion.adapters import adapt
from common.diffusion.unet import UNetDenoiser, load_denoiser
from common.federation.seeds import seeded_generator
from common.study import Study


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
    denoiser = fresh_denoiser(study, seeded_generator(study.seed, "shape only"))
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
