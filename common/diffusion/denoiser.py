"""The contract of a denoiser, and classifier-free guidance over any of them.

Whatever a network predicts and however it is built, objectives and samplers see one function
`(z_t, time, labels) -> prediction` (after Karras et al. 2022, Table 1). Its rows are independent:
example i's output depends on row i of the arguments and on nothing else.
"""

from typing import Protocol

import torch

from common.errors import ConfigError
from common.shapes import Labels, LatentLike, PerExample

NULL_LABEL = -1
"""The label of an example without a condition: it takes the unconditional path."""


class Denoiser(Protocol):
    """A network that predicts from a noised latent, row by row."""

    def __call__(self, z_t: LatentLike, time: PerExample, labels: Labels | None) -> LatentLike:
        """Return the prediction at ``z_t``, of its shape.

        Args:
            z_t: Noised latents, normalised to about unit variance.
            time: Noise time of each example, from 0 (clean) to 1 (noise).
            labels: Class of each example, `NULL_LABEL` for none; ``None`` means none for all.
        """
        ...


def guided(denoiser: Denoiser, guidance_scale: float) -> Denoiser:
    """Return ``denoiser`` under classifier-free guidance.

    Ho & Salimans 2022, Eq. 6, with weight w = ``guidance_scale`` on the difference:

        unconditional + w (conditional - unconditional)

    so 1 is plain conditional sampling and 0 ignores the labels; these two need one row per example.
    Any other scale needs two, which go through the network as one batch. Without labels there is
    nothing to guide by, and the denoiser is called as it is.
    """

    def call(z_t: LatentLike, time: PerExample, labels: Labels | None) -> LatentLike:
        if labels is None or guidance_scale == 1:
            return denoiser(z_t, time, labels)
        nulls = torch.full_like(labels, NULL_LABEL)
        if guidance_scale == 0:
            return denoiser(z_t, time, nulls)
        both = denoiser(torch.cat([z_t, z_t]), torch.cat([time, time]), torch.cat([labels, nulls]))
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return call


def check_labels(labels: Labels | None, num_classes: int) -> None:
    """Refuse labels that the denoiser has no class for.

    Raises:
        ConfigError: A label outside 0 ... ``num_classes`` - 1 that is not `NULL_LABEL`.
    """
    if labels is None or len(labels) == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < NULL_LABEL or high >= num_classes:
        wrong = high if high >= num_classes else low
        raise ConfigError(
            f"label {wrong} for a denoiser with {num_classes} classes",
            "labels count from 0; see diffusion.model.condition in the study",
        )
