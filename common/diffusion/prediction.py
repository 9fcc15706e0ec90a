"""What a denoiser may predict on the variance-preserving path, and how to get from one to another.

With ᾱ the schedule's alpha_bar, x0 the clean latent and eps standard normal noise
(Ho et al. 2020, Eq. 4; Salimans & Ho 2022, Section 4 and Appendix D):

    z_t = √ᾱ x0 + √(1 - ᾱ) eps
    v   = √ᾱ eps - √(1 - ᾱ) x0

Given z_t, each of x0, eps and v determines the other two. No other module knows these formulas.

>>> import torch
>>> x0, eps, alpha_bar = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([0.25])
>>> Prediction.V.target(x0, eps, alpha_bar)
tensor([[-0.8660]])
"""

import enum

from jaxtyping import Float
from torch import Tensor

from common.shapes import LatentLike

AlphaBar = Float[Tensor, " batch"]


def noised(x0: LatentLike, eps: LatentLike, alpha_bar: AlphaBar) -> LatentLike:
    """Return z_t, the latent ``x0`` with noise ``eps`` at ``alpha_bar``."""
    signal, noise = _coefficients(alpha_bar, x0)
    return signal * x0 + noise * eps


class Prediction(enum.Enum):
    """What the network's output means."""

    X0 = "x0"
    EPS = "eps"
    V = "v"

    def target(self, x0: LatentLike, eps: LatentLike, alpha_bar: AlphaBar) -> LatentLike:
        """Return what the network is trained to output; ``alpha_bar`` has one value per example."""
        signal, noise = _coefficients(alpha_bar, x0)
        match self:
            case Prediction.X0:
                return x0
            case Prediction.EPS:
                return eps
            case Prediction.V:
                return signal * eps - noise * x0

    def to_x0(self, output: LatentLike, z_t: LatentLike, alpha_bar: AlphaBar) -> LatentLike:
        """Return the clean latent that ``output`` implies at ``z_t``; not clipped."""
        signal, noise = _coefficients(alpha_bar, z_t)
        match self:
            case Prediction.X0:
                return output
            case Prediction.EPS:
                return (z_t - noise * output) / signal
            case Prediction.V:
                return signal * z_t - noise * output

    def to_eps(self, output: LatentLike, z_t: LatentLike, alpha_bar: AlphaBar) -> LatentLike:
        """Return the noise that ``output`` implies at ``z_t``."""
        signal, noise = _coefficients(alpha_bar, z_t)
        match self:
            case Prediction.X0:
                return (z_t - signal * output) / noise
            case Prediction.EPS:
                return output
            case Prediction.V:
                return noise * z_t + signal * output


def _coefficients(alpha_bar: AlphaBar, like: LatentLike) -> tuple[Tensor, Tensor]:
    """Return √ᾱ and √(1 - ᾱ), broadcastable over ``like`` and in its dtype."""
    column = alpha_bar.reshape(-1, *[1] * (like.ndim - 1))
    return column.sqrt().to(like.dtype), (1 - column).sqrt().to(like.dtype)
