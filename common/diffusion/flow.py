"""Rectified flow: the straight path from data to noise, and the velocity along it.

Liu et al. 2023, Eq. 1, in the orientation of Esser et al. 2024, Section 2: time 0 is data, 1 is noise.

    z_t = (1 - t) z0 + t eps
    velocity = dz_t/dt = eps - z0

Given z_t, the velocity determines both ends. No other module knows these formulas.
"""

import torch

from common.diffusion.config import TimeDistribution
from common.shapes import LatentLike, PerExample

_EDGE = 1e-4  # times stay this far from 0 and 1, where the logit is infinite


def noised(z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
    """Return z_t, the point at ``time`` between ``z0`` and ``eps``."""
    t = _column(time, z0)
    return (1 - t) * z0 + t * eps


def velocity(z0: LatentLike, eps: LatentLike) -> LatentLike:
    """Return what the network is trained to output: the same at every time."""
    return eps - z0


def to_z0(output: LatentLike, z_t: LatentLike, time: PerExample) -> LatentLike:
    """Return the clean latent that the velocity ``output`` implies at ``z_t``."""
    return z_t - _column(time, z_t) * output


def to_eps(output: LatentLike, z_t: LatentLike, time: PerExample) -> LatentLike:
    """Return the noise that the velocity ``output`` implies at ``z_t``."""
    return z_t + (1 - _column(time, z_t)) * output


def draw_time(num: int, distribution: TimeDistribution, generator: torch.Generator) -> PerExample:
    """Return ``num`` training times in (0, 1), on the generator's device.

    ``logit_normal`` puts most times in the middle, where the velocity is hardest to tell
    (Esser et al. 2024, Section 3.1, with mean 0 and deviation 1); ``uniform`` spreads them evenly.
    """
    uniform = torch.rand(num, generator=generator, device=generator.device).clamp(_EDGE, 1 - _EDGE)
    match distribution:
        case "uniform":
            return uniform
        case "logit_normal":
            return torch.sigmoid(torch.special.ndtri(uniform))


def _column(time: PerExample, like: LatentLike) -> LatentLike:
    """Return ``time`` broadcastable over ``like`` and in its dtype."""
    return time.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
