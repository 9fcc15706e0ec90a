"""Codebook that learns by gradient: ordinary parameters, exact under per-example clipping.

    e_k = (f_k + p_k) W + b        loss = ‖sg(z) - e‖² + β ‖z - sg(e)‖²   (van den Oord et al. 2017, Eq. 3)

f is a fixed normal draw with the public deviations that latents are expected to have. A free codebook
(p alone) moves only the codes that are hit, and the rest die; the shared map W, b moves all of them with
the latents (Zhu et al. 2024, SimVQ), and p lets each code leave that lattice.
"""

import torch
from torch import Tensor, nn

from common.codec.config import GradientQuantizerConfig
from common.codec.nearest import nearest_codes, to_latent, to_vectors
from common.codec.quantizer import Quantized, squared_distance, straight_through
from common.shapes import Latent


class GradientQuantizer(nn.Module):
    """Quantizer for training under differential privacy.

    Args:
        config: Sizes.
        commitment_weight: β.
        deviations: Deviation of the fixed draw per channel, a public constant.
        generator: Source of the fixed draw, on the CPU.
    """

    base: Tensor

    def __init__(
        self,
        config: GradientQuantizerConfig,
        commitment_weight: float,
        deviations: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        draws = torch.randn(config.num_codes, config.code_dim, generator=generator)
        self.register_buffer("base", draws * deviations)
        self.offsets = nn.Parameter(torch.zeros(config.num_codes, config.code_dim))
        self.map = nn.Parameter(torch.eye(config.code_dim))
        self.shift = nn.Parameter(torch.zeros(config.code_dim))

    @property
    def codes(self) -> Tensor:
        """The codebook [code, code_dim]."""
        # Not in a half precision: training would snap to other codes than sampling.
        with torch.autocast(self.base.device.type, enabled=False):
            return (self.base + self.offsets) @ self.map + self.shift

    def forward(self, latent: Latent) -> Quantized:
        """Return the nearest codes; see `Quantizer`."""
        codes = self.codes
        indices = nearest_codes(to_vectors(latent), codes)
        nearest = to_latent(codes[indices], latent)
        commitment = squared_distance(latent, nearest.detach())
        codebook = squared_distance(latent.detach(), nearest)
        shape = (len(latent), *latent.shape[2:])
        return Quantized(
            straight_through(latent, nearest),
            indices.reshape(shape),
            codebook + self.commitment_weight * commitment,
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per channel over codes; how often each is used is not asked."""
        codes = self.codes.detach().double()
        return codes.mean(dim=0), codes.std(dim=0, correction=0)
