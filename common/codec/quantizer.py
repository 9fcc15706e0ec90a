"""What the three quantizers share: a pure function from latent to codes.

The gradient passes the rounding as if it were not there (straight-through, Bengio et al. 2013). The
losses are per example, so that one patient's gradient can be told from another's.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from common.shapes import CodeIndices, Latent, PerExample


@dataclass(frozen=True)
class Quantized:
    """A quantized latent.

    Attributes:
        quantized: Codes in place of the latent's vectors; its gradient is the latent's.
        indices: Which code, at every position.
        loss: Commitment and, where codes learn by gradient, codebook loss of each example.
    """

    quantized: Latent
    indices: CodeIndices
    loss: PerExample


class Quantizer(Protocol):
    """A quantizer. Calling it changes nothing, in train mode too."""

    def __call__(self, latent: Latent) -> Quantized:
        """Return the nearest codes."""
        ...

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per channel, from the codebook or as public constants."""
        ...


def straight_through(latent: Latent, codes: Latent) -> Latent:
    """Return ``codes`` with the gradient of ``latent``."""
    return latent + (codes - latent).detach()


def squared_distance(first: Latent, second: Latent) -> PerExample:
    """Return the mean squared difference of each example."""
    return (first - second).square().flatten(1).mean(dim=1)
