"""Codebook as an exponential moving average of encoder outputs (van den Oord et al. 2017, App. A.1).

    N <- γ N + (1 - γ) n,   S <- γ S + (1 - γ) s,   e = S / N

with n the count and s the sum of the latent vectors of each code in a batch, both divided by the mean
count of the batch: N has mean one whatever the batch size, so it starts at one, and sites of any size
add up. The state is (N, S); codes follow from it. Codes start as normal draws with the public
deviations that latents are expected to have, never as copies of a patient's vectors. Only `update`
changes state, and only the training step calls it.
"""

import torch
from torch import Tensor, nn

from common.codec.config import EmaQuantizerConfig
from common.codec.nearest import nearest_codes, to_latent, to_vectors
from common.codec.quantizer import Quantized, squared_distance, straight_through
from common.shapes import CodeIndices, Latent

SMOOTHING = 1e-5  # of the mean count, so that a code without any vector keeps a finite value


class EmaQuantizer(nn.Module):
    """The paper's quantizer, made pure.

    Args:
        config: Sizes and decay.
        commitment_weight: β of Eq. 3.
        deviations: Deviation of the initial codes per channel, a public constant.
        generator: Source of the initial codes, on the CPU.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        config: EmaQuantizerConfig,
        commitment_weight: float,
        deviations: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.decay = config.decay
        self.commitment_weight = commitment_weight
        codes = torch.randn(config.num_codes, config.code_dim, generator=generator) * deviations
        self.register_buffer("counts", torch.ones(config.num_codes))
        self.register_buffer("sums", codes)

    @property
    def codes(self) -> Tensor:
        """The codebook [code, code_dim]."""
        return self.sums / (self.counts + SMOOTHING * self.counts.mean())[:, None]

    def forward(self, latent: Latent) -> Quantized:
        """Return the nearest codes; see `Quantizer`."""
        codes = self.codes
        indices = nearest_codes(to_vectors(latent), codes)
        nearest = to_latent(codes[indices], latent)
        loss = self.commitment_weight * squared_distance(latent, nearest)
        shape = (len(latent), *latent.shape[2:])
        return Quantized(straight_through(latent, nearest), indices.reshape(shape), loss)

    @torch.no_grad()
    def update(self, latent: Latent, indices: CodeIndices) -> None:
        """Move counts and sums towards one batch's."""
        vectors, flat = to_vectors(latent.detach()).float(), indices.flatten()
        # index_add is deterministic on the CPU; on CUDA the order of addition may vary.
        counts = torch.zeros_like(self.counts).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
        sums = torch.zeros_like(self.sums).index_add_(0, flat, vectors)
        mean = counts.mean()
        self.counts.mul_(self.decay).add_(counts / mean, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums / mean, alpha=1 - self.decay)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per channel over codes, weighted by their counts."""
        weights = (self.counts / self.counts.sum()).double()[:, None]
        codes = self.codes.double()
        mean = (weights * codes).sum(dim=0)
        return mean, (weights * (codes - mean).square()).sum(dim=0).sqrt()
