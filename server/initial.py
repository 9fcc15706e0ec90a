"""The tensors a study starts from: a pure function of the study's seed."""

import torch
from torch import Tensor

from common.codec.training import initial_codec_state
from common.diffusion.unet import initial_denoiser_state
from common.study import Study


def initial_codec(study: Study, generator: torch.Generator) -> dict[str, Tensor]:
    """Return codec, codebook sums and discriminators before the first step."""
    return initial_codec_state(study.codec.model, study.volume.num_codec_channels, generator)


def initial_denoiser(study: Study, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the denoiser before the first step."""
    return initial_denoiser_state(
        study.diffusion.model.denoiser, study.codec.model.code_dim, study.num_classes, generator
    )
