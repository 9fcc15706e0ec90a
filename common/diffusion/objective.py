"""What a denoiser is trained to do: one loss per example, with every draw visible.

Two paths lead from data to noise. On the variance-preserving one the network predicts x0, eps or v
(prediction.py); on the straight one of rectified flow it predicts the velocity (flow.py). Both give
a squared error per example, and nothing here mixes examples: example i's loss depends on example i.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from common.diffusion import flow, prediction
from common.diffusion.config import DiffusionConfig, TimeDistribution
from common.diffusion.denoiser import NULL_LABEL, Denoiser
from common.diffusion.prediction import Prediction
from common.diffusion.schedule import NoiseSchedule
from common.shapes import Labels, LatentLike, PerExample


class Path(Protocol):
    """A way from clean latents (time 0) to noise (time 1), and what to predict on it."""

    def draw_time(self, num: int, generator: torch.Generator) -> PerExample:
        """Return ``num`` training times, on the generator's device."""
        ...

    def noised(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
        """Return the latents ``z0`` with noise ``eps`` at ``time``."""
        ...

    def target(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
        """Return what the denoiser should output there."""
        ...


@dataclass(frozen=True)
class VariancePreservingPath:
    """Ho et al. 2020: timesteps of a noise schedule, drawn uniformly."""

    schedule: NoiseSchedule
    prediction: Prediction

    def draw_time(self, num: int, generator: torch.Generator) -> PerExample:
        """Return the times of ``num`` uniform timesteps."""
        num_train_steps = self.schedule.num_train_steps
        timestep = torch.randint(num_train_steps, (num,), generator=generator, device=generator.device)
        return (timestep + 1).float() / num_train_steps

    def noised(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
        """Return √ᾱ z0 + √(1 - ᾱ) eps."""
        return prediction.noised(z0, eps, self.schedule.alpha_bar(time))

    def target(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
        """Return x0, eps or v."""
        return self.prediction.target(z0, eps, self.schedule.alpha_bar(time))


@dataclass(frozen=True)
class FlowPath:
    """Rectified flow: the straight line, with times from a distribution of one's choice."""

    time_distribution: TimeDistribution

    def draw_time(self, num: int, generator: torch.Generator) -> PerExample:
        """Return ``num`` times in (0, 1)."""
        return flow.draw_time(num, self.time_distribution, generator)

    def noised(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:
        """Return (1 - t) z0 + t eps."""
        return flow.noised(z0, eps, time)

    def target(self, z0: LatentLike, eps: LatentLike, time: PerExample) -> LatentLike:  # noqa: ARG002
        """Return the velocity, the same at every time."""
        return flow.velocity(z0, eps)


class Draws(NamedTuple):
    """All randomness of one loss, one row per example."""

    time: PerExample
    eps: LatentLike
    drop_label: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Objective:
    """Squared error on a path, with per-example condition dropout.

    Attributes:
        path: How latents are noised and what is predicted.
        label_dropout: Probability that an example trains the unconditional path instead of its own
            label (Ho & Salimans 2022, Algorithm 1); each example is dropped on its own.
    """

    path: Path
    label_dropout: float = 0.0

    def per_example_loss(
        self, denoiser: Denoiser, z0: LatentLike, labels: Labels | None, generator: torch.Generator
    ) -> PerExample:
        """Return one loss per latent, with times, noise and dropout drawn from ``generator``.

        Args:
            denoiser: The network.
            z0: Clean latents, normalised to about unit variance.
            labels: Class of each example, or ``None``.
            generator: Source of all draws; one on the CPU gives the same draws on every device.
        """
        return self.loss_at(denoiser, z0, labels, self.draw(z0, generator))

    def draw(self, z0: LatentLike, generator: torch.Generator) -> Draws:
        """Return the draws for a batch like ``z0``: time first, then noise, then dropout."""
        num, home = len(z0), generator.device
        time = self.path.draw_time(num, generator)
        eps = torch.randn(z0.shape, generator=generator, device=home, dtype=z0.dtype)
        drop_label = torch.rand(num, generator=generator, device=home) < self.label_dropout
        return Draws(time.to(z0.device), eps.to(z0.device), drop_label.to(z0.device))

    def loss_at(self, denoiser: Denoiser, z0: LatentLike, labels: Labels | None, draws: Draws) -> PerExample:
        """Return one loss per latent at given draws: a pure function of its arguments."""
        time, eps, drop_label = draws
        if labels is not None:
            labels = labels.masked_fill(drop_label, NULL_LABEL)
        output = denoiser(self.path.noised(z0, eps, time), time, labels)
        return (output - self.path.target(z0, eps, time)).square().flatten(1).mean(dim=1)


def variance_preserving_path(config: DiffusionConfig) -> VariancePreservingPath:
    """Return the path of the objectives ``eps`` and ``v``."""
    schedule = NoiseSchedule.cosine(config.num_train_steps)
    return VariancePreservingPath(schedule, Prediction(config.objective))


def make_objective(config: DiffusionConfig) -> Objective:
    """Return the objective that a study asks for."""
    path: Path
    match config.objective:
        case "flow":
            path = FlowPath(config.time_distribution)
        case "eps" | "v":
            path = variance_preserving_path(config)
    return Objective(path, config.condition.dropout)
