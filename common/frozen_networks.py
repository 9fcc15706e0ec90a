"""The tensors that the diffusion stage uses and does not train, by name.

    codec.NAME       the codec, by the names of `Codec.state_dict`
    denoiser.NAME    in a private study, all of a public denoiser but the trainable set

Both ends know their names, shapes and dtypes from the study alone.
"""

from collections.abc import Mapping

from torch import Tensor

from common.privacy.patient_gradients import trainable
from common.study import Study
from common.study_networks import shaped_codec, shaped_denoiser

CODEC_PREFIX = "codec."
DENOISER_PREFIX = "denoiser."


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under names that begin with ``prefix``.

    >>> part_of(with_prefix({"weight": 1}, "codec."), "codec.")
    {'weight': 1}
    """
    return {prefix + name: tensor for name, tensor in tensors.items()}


def frozen_example(study: Study) -> dict[str, Tensor]:
    """Return tensors with the names, shapes and dtypes of what the study's diffusion stage does not train."""
    frozen = with_prefix(shaped_codec(study).state_dict(), CODEC_PREFIX)
    if study.privacy is not None:
        denoiser = shaped_denoiser(study)
        trained = trainable(denoiser)
        fixed = {name: t for name, t in denoiser.state_dict().items() if name not in trained}
        frozen |= with_prefix(fixed, DENOISER_PREFIX)
    return frozen
