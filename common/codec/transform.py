"""The linear transform that a codec starts from: the lowest frequencies of each block.

A separable DCT-II (Ahmed et al. 1974) over the channels and the three axes of a block is close to
the best linear transform of smooth images. The encoder's linear path starts as its lowest
``code_dim`` rows and the decoder's as the transpose, so training starts from a sensible blur rather
than from noise. The scales make the latents of volumes in [-1, 1] about unit variance; they are
public constants, tuned on phantoms and never read from a patient.
"""

import itertools
import math

import torch
from torch import Tensor

from common.codec.config import Factors

MEAN_GAIN, DETAIL_GAIN = 1.3, 0.35  # deviation of a block's mean and of its details, for 8 voxels


def lowest_frequencies(num_channels: int, factors: Factors, code_dim: int) -> tuple[Tensor, Tensor]:
    """Return the ``code_dim`` lowest-frequency rows of the block's DCT, and a scale for each.

    Returns:
        Orthonormal rows [code_dim, channels·a·b·c], repeated from the start if there are fewer, and
        the expected deviation of each row's coefficient [code_dim].
    """
    lengths = (num_channels, *factors)
    bases = [_dct(length) for length in lengths]
    orders = sorted(
        itertools.product(*(range(length) for length in lengths)),
        key=lambda order: (sum((k / n) ** 2 for k, n in zip(order, lengths, strict=True)), order),
    )
    chosen = [orders[index % len(orders)] for index in range(code_dim)]
    rows = [_outer([basis[k] for basis, k in zip(bases, order, strict=True)]) for order in chosen]
    size = math.sqrt(len(orders) / 8)
    gains = [size * (DETAIL_GAIN if any(order) else MEAN_GAIN) for order in chosen]
    return torch.stack(rows), torch.tensor(gains)


def _dct(length: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, one frequency per row."""
    frequency, position = torch.arange(length)[:, None], torch.arange(length)[None]
    rows = torch.cos(math.pi * (position + 0.5) * frequency / length) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows


def _outer(vectors: list[Tensor]) -> Tensor:
    product = vectors[0]
    for vector in vectors[1:]:
        product = (product[:, None] * vector[None]).flatten()
    return product
