"""Finite scalar quantization (Mentzer et al. 2023): each channel is rounded to one of L levels.

    q = R (2k + 1 - L) / L,   k = clamp(round((z / R + 1) L / 2 - 1/2), 0, L - 1),   R = 2.2 deviations

Nothing is learnt, so nothing can leak and nothing is aggregated. The paper bounds z by a tanh, whose
vanishing slope let latents collapse to a constant here; instead the levels span ±R of a latent whose
deviation at the start is a public constant, values beyond take the outermost level, and the commitment
term pulls them in. R is where a block's mean ends for voxels in [-1, 1]; details beyond theirs are rare.

>>> _round_to_levels(torch.tensor([-9.0, 0.1, 0.9]), torch.tensor(4.0), torch.tensor(2.2))[0]
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
        deviations: Deviation of the initial latent per channel, a public constant.
    """

    levels: Tensor
    reach: Tensor

    def __init__(self, config: FsqQuantizerConfig, commitment_weight: float, deviations: Tensor) -> None:
        super().__init__()
        self.deviations = deviations
        self.register_buffer("reach", RANGE * deviations, persistent=False)
        self.commitment_weight = commitment_weight
        self.register_buffer("levels", torch.tensor(config.levels, dtype=torch.float32), persistent=False)
        bases = [math.prod(config.levels[:channel]) for channel in range(len(config.levels))]
        self.bases = tuple(bases)

    def forward(self, latent: Latent) -> Quantized:
        """Return the nearest levels; see `Quantizer`."""
        nearest, digits = _round_to_levels(latent.movedim(1, -1), self.levels, self.reach)
        nearest, digits = nearest.movedim(-1, 1), digits.movedim(-1, 1)
        indices = sum(digits[:, channel] * base for channel, base in enumerate(self.bases))
        # In deviations: a detail beyond its levels is pulled back as hard as a mean beyond its own.
        unit = (self.reach / RANGE)[:, None, None, None]
        loss = self.commitment_weight * squared_distance(latent / unit, nearest / unit)
        return Quantized(straight_through(latent, nearest), torch.as_tensor(indices), loss)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return 0 and the deviations that the encoder starts from: public constants."""
        return torch.zeros_like(self.deviations, dtype=torch.float64), self.deviations.double()


def _round_to_levels(values: Tensor, levels: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return each value's nearest level within ±``reach`` (channels last), and its number from 0."""
    digits = ((values.detach() / reach + 1) * levels / 2 - 0.5).round()
    digits = torch.minimum(digits.clamp_min(0), levels - 1)
    return reach * (2 * digits + 1 - levels) / levels, digits.long()
