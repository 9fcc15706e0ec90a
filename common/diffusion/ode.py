"""Euler and Heun: solvers of the rectified flow dz/dt = velocity(z, t), from t = 1 (noise) to 0 (data).

Euler's global error falls as the step; Heun's (the trapezoidal rule with an Euler predictor, as in
Karras et al. 2022, Algorithm 1) as its square, at two network calls a step.
"""

import torch

from common.diffusion.denoiser import Denoiser
from common.shapes import Labels, LatentLike


def sample_euler(denoiser: Denoiser, noise: LatentLike, labels: Labels | None, num_steps: int) -> LatentLike:
    """Return clean latents after ``num_steps`` equal Euler steps.

    Args:
        denoiser: Network that predicts the velocity eps - z0.
        noise: Standard normal start; the result has its shape, dtype and device.
        labels: Class of each example, or ``None``.
        num_steps: Steps, each one network call.
    """
    z = noise
    for i in range(num_steps):
        z = z - _velocity(denoiser, z, labels, _time(i, num_steps)) / num_steps
    return z


def sample_heun(denoiser: Denoiser, noise: LatentLike, labels: Labels | None, num_steps: int) -> LatentLike:
    """Return clean latents after ``num_steps`` equal Heun steps; arguments as in `sample_euler`.

    The last step is an Euler step: at t = 0 a velocity has nothing left to tell (its training
    never visits that end), so n steps cost 2n - 1 network calls.
    """
    z = noise
    for i in range(num_steps):
        here = _velocity(denoiser, z, labels, _time(i, num_steps))
        predicted = z - here / num_steps
        if i == num_steps - 1:
            return predicted
        there = _velocity(denoiser, predicted, labels, _time(i + 1, num_steps))
        z = z - (here + there) / (2 * num_steps)
    return z


def _time(step: int, num_steps: int) -> float:
    """Return the time at the start of ``step``."""
    return 1 - step / num_steps


def _velocity(denoiser: Denoiser, z: LatentLike, labels: Labels | None, time: float) -> LatentLike:
    """Return the network's velocity at one time for all rows."""
    return denoiser(z, torch.full((len(z),), time, device=z.device), labels)
