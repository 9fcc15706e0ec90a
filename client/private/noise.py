"""The Gaussian mechanism on a sum of clipped gradients.

The noise is made and added in float64 and the result rounded to a public grid of sigma C / 4096, which
hides where the floating-point numbers of the sum were dense (Mironov 2012): what leaves depends on the
sum only through a multiple of the grid. What remains assumed: that Gaussian numbers of 53 random bits,
cut off at 8.6 standard deviations, are as good as real ones. No proof for finite precision is claimed.
"""

import torch
from torch import Tensor

from client.private.secret_stream import SecretStream

GRID = 2.0**-12  # in standard deviations of the noise


def noised(total: Tensor, standard_deviation: float, stream: SecretStream) -> Tensor:
    """Return ``total`` plus Gaussian noise, on the grid, in float64.

    Args:
        total: Sum in float64, on the CPU.
        standard_deviation: sigma C, positive.
        stream: Fresh secret randomness: never one that was used before.
    """
    if total.dtype != torch.float64:
        raise TypeError(f"noise is added in float64, not in {total.dtype}")
    noise = torch.from_numpy(stream.normal(total.numel())).reshape(total.shape)
    step = GRID * standard_deviation
    return ((total + standard_deviation * noise) / step).round() * step
