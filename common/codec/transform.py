"""The linear transform that a codec starts from: the lowest frequencies of each block.

A separable DCT-II (Ahmed et al. 1974) over the channels and the three axes of a block is close to
the best linear transform of smooth images. The encoder's linear path starts as its lowest
``code_dim`` rows and the decoder's as the transpose, so training starts from a sensible blur rather
than from noise. One scale for all rows keeps the transform orthogonal, so that an error of a latent is
as large an error of the volume whichever channel it is in, which is what a quantizer minimises.

The constants are public, tuned on phantoms and never read from a patient.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.codec.config import Factors

MEAN_DEVIATION, DETAIL_DEVIATION = 1.3, 0.35  # of the coefficients of 8 voxels in [-1, 1]


@dataclass(frozen=True)
class BlockTransform:
    """latent = rows @ block / scale, and block = scale * rows^T @ latent.

    Attributes:
        rows: Orthonormal [code_dim, channels·a·b·c], lowest frequency first.
        scale: One number: the expected deviation of the first row's coefficient.
        deviations: Expected deviation of each latent channel [code_dim]; the first is 1.
    """

    rows: Tensor
    scale: float
    deviations: Tensor


def lowest_frequencies(num_channels: int, factors: Factors, code_dim: int) -> BlockTransform:
    """Return the ``code_dim`` lowest frequencies of the block's DCT, from the start again if it has fewer."""
    lengths = (num_channels, *factors)
    bases = [_dct(length) for length in lengths]
    orders = sorted(
        itertools.product(*(range(length) for length in lengths)),
        key=lambda order: (sum((k / n) ** 2 for k, n in zip(order, lengths, strict=True)), order),
    )
    chosen = [orders[index % len(orders)] for index in range(code_dim)]
    rows = [_outer([basis[k] for basis, k in zip(bases, order, strict=True)]) for order in chosen]
    size = math.sqrt(len(orders) / 8)
    detail = DETAIL_DEVIATION / MEAN_DEVIATION
    deviations = torch.tensor([detail if any(order) else 1.0 for order in chosen])
    return BlockTransform(torch.stack(rows), size * MEAN_DEVIATION, deviations)


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
