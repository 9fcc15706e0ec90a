"""Finite scalar quantization (Mentzer et al. 2023): each channel is rounded to one of L levels.

    q = R (2k + 1 - L) / L,   k = clamp(round((z / R + 1) L / 2 - 1/2), 0, L - 1)

Nothing is learnt, so nothing can leak and nothing is aggregated. The paper bounds z by a tanh, whose
vanishing slope let latents collapse to a constant here; instead the levels span ±R of a latent that
starts at unit variance, values beyond take the outermost level, and the commitment term pulls them in.

>>> _round_to_levels(torch.tensor([-9.0, 0.1, 0.9]), levels=torch.tensor([4.0, 4.0, 4.0]))[0]
tensor([-1.6500,  0.5500,  0.5500])
"""

import math

import torch
from torch import Tensor, nn

from common.codec.config import FsqQuantizerConfig
from common.codec.quantizer import Quantized, squared_distance, straight_through
from common.shapes import Latent

RANGE = 2.2  # R, in deviations of the initial latent


class FsqQuantizer(nn.Module):
    """Quantizer without a codebook.

    Args:
        config: Levels per channel.
        commitment_weight: Weight of the pull towards the levels.
    """

    levels: Tensor

    def __init__(self, config: FsqQuantizerConfig, commitment_weight: float) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        self.register_buffer("levels", torch.tensor(config.levels, dtype=torch.float32), persistent=False)
        bases = [math.prod(config.levels[:channel]) for channel in range(len(config.levels))]
        self.bases = tuple(bases)

    def forward(self, latent: Latent) -> Quantized:
        """Return the nearest levels; see `Quantizer`."""
        nearest, digits = _round_to_levels(latent.movedim(1, -1), self.levels)
        nearest, digits = nearest.movedim(-1, 1), digits.movedim(-1, 1)
        indices = sum(digits[:, channel] * base for channel, base in enumerate(self.bases))
        loss = self.commitment_weight * squared_distance(latent, nearest)
        return Quantized(straight_through(latent, nearest), torch.as_tensor(indices), loss)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the public constants 0 and 1: the encoder starts at unit variance."""
        zero = torch.zeros_like(self.levels, dtype=torch.float64)
        return zero, torch.ones_like(zero)


def _round_to_levels(values: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest level of each value (channels last), and its number from 0."""
    digits = ((values.detach() / RANGE + 1) * levels / 2 - 0.5).round()
    digits = torch.minimum(digits.clamp_min(0), levels - 1)
    return RANGE * (2 * digits + 1 - levels) / levels, digits.long()
