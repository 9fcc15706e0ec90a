"""DDPM and DDIM: samplers on the variance-preserving path, from noisy to clean by timesteps t > s.

Both estimate x0 and eps at z_t and draw z_s. Nothing is clipped: latents have no bounds.

DDPM (Ho et al. 2020, Eq. 6 and 7) with α = ᾱ_t / ᾱ_s, the step's own alpha:

    mean     = √ᾱ_s (1 - α) / (1 - ᾱ_t) x0 + √α (1 - ᾱ_s) / (1 - ᾱ_t) z_t
    variance = (1 - ᾱ_s) / (1 - ᾱ_t) (1 - α)

DDIM (Song et al. 2021, Eq. 12 and 16) with σ = eta times the square root of that variance:

    z_s = √ᾱ_s x0 + √(1 - ᾱ_s - σ²) eps + σ noise

The last step goes to the clean latent, ᾱ_s = 1, where both return x0.
"""

import math
from collections.abc import Callable, Iterator

import torch

from common.diffusion.denoiser import Denoiser
from common.diffusion.objective import VariancePreservingPath
from common.diffusion.prediction import Prediction
from common.shapes import Labels, LatentLike

DrawNoise = Callable[[], LatentLike]
"""Returns fresh standard normal noise of the latents' shape at each call."""

_SMALLEST_EPS_ALPHA_BAR = 1e-3
"""Where an eps prediction may start: its x0 is the output's error divided by √ᾱ, which is 5e-5 at
the last of 1000 timesteps. Here it is 0.03, and starting from pure noise is off by 0.03 of x0."""


def sample_ddpm(
    denoiser: Denoiser,
    path: VariancePreservingPath,
    noise: LatentLike,
    labels: Labels | None,
    num_steps: int,
    draw_noise: DrawNoise,
) -> LatentLike:
    """Return clean latents by ancestral sampling.

    Args:
        denoiser: Network that predicts what ``path`` says.
        path: Schedule and meaning of the prediction.
        noise: Standard normal start; the result has its shape, dtype and device.
        labels: Class of each example, or ``None``.
        num_steps: Network calls.
        draw_noise: Source of the noise of every step but the last.
    """
    z_t = noise
    for time, abar_t, abar_s in _steps(path, num_steps):
        x0, _ = _estimates(denoiser, path, z_t, labels, time)
        alpha = abar_t / abar_s
        from_x0 = math.sqrt(abar_s) * (1 - alpha) / (1 - abar_t)
        from_z_t = math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
        z_t = from_x0 * x0 + from_z_t * z_t
        if abar_s < 1:
            z_t = z_t + math.sqrt(_posterior_variance(abar_t, abar_s)) * draw_noise()
    return z_t


def sample_ddim(
    denoiser: Denoiser,
    path: VariancePreservingPath,
    noise: LatentLike,
    labels: Labels | None,
    num_steps: int,
    draw_noise: DrawNoise,
    eta: float = 0.0,
) -> LatentLike:
    """Return clean latents by DDIM; arguments as in `sample_ddpm`.

    Args:
        denoiser: Network that predicts what ``path`` says.
        path: Schedule and meaning of the prediction.
        noise: Standard normal start.
        labels: Class of each example, or ``None``.
        num_steps: Network calls.
        draw_noise: Source of the noise of every step but the last; not called when ``eta`` is 0.
        eta: Share of the ancestral noise: 0 makes the result a function of ``noise``, 1 is DDPM.
    """
    z_t = noise
    for time, abar_t, abar_s in _steps(path, num_steps):
        x0, eps = _estimates(denoiser, path, z_t, labels, time)
        variance = eta**2 * _posterior_variance(abar_t, abar_s)
        z_t = math.sqrt(abar_s) * x0 + math.sqrt(max(1 - abar_s - variance, 0.0)) * eps
        if variance > 0:
            z_t = z_t + math.sqrt(variance) * draw_noise()
    return z_t


def _posterior_variance(abar_t: float, abar_s: float) -> float:
    """Return the variance of z_s given z_t and x0 (Ho et al. 2020, Eq. 7)."""
    return (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)


def _steps(path: VariancePreservingPath, num_steps: int) -> Iterator[tuple[float, float, float]]:
    """Yield time, ᾱ_t and ᾱ_s of every step from noise to the clean latent."""
    alpha_bars: list[float] = path.schedule.alpha_bars.tolist()
    first = None
    if path.prediction is Prediction.EPS:
        first = sum(alpha_bar >= _SMALLEST_EPS_ALPHA_BAR for alpha_bar in alpha_bars) - 1
    timesteps = path.schedule.sampling_timesteps(num_steps, first)
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        yield path.schedule.time(t), alpha_bars[t], 1.0 if s is None else alpha_bars[s]


def _estimates(
    denoiser: Denoiser, path: VariancePreservingPath, z_t: LatentLike, labels: Labels | None, time: float
) -> tuple[LatentLike, LatentLike]:
    """Return the network's x0 and eps at ``z_t``."""
    times = torch.full((len(z_t),), time, device=z_t.device)
    alpha_bar = path.schedule.alpha_bar(times)
    output = denoiser(z_t, times, labels)
    return path.prediction.to_x0(output, z_t, alpha_bar), path.prediction.to_eps(output, z_t, alpha_bar)
