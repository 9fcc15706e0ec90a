"""The cosine noise schedule: how much of the latent is left at each time.

Nichol & Dhariwal 2021, Eq. 17, with u from 0 (clean) to 1 (noise) and s = 0.008:

    alpha_bar(u) = f(u) / f(0),    f(u) = cos²((u + s) / (1 + s) · π/2)

Timestep t of T stands for u = (t + 1) / T. Timestep 0 is therefore slightly noisy already, and
nothing divides by the 1 - alpha_bar(0) = 0 of the clean latent. At the other end the paper's limit
of 0.999 on each beta keeps alpha_bar above 0.

>>> schedule = NoiseSchedule.cosine(num_train_steps=1000)
>>> f"{schedule.alpha_bar(torch.tensor([0.5])).item():.4f}"
'0.4938'
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from common.shapes import PerExample

_OFFSET = 0.008  # s of Eq. 17
_LARGEST_BETA = 0.999  # Section 3.2 of the paper


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A table of alpha_bar over T timesteps.

    Attributes:
        alpha_bars: Share of the latent's variance that is left, per timestep; float64, on the CPU,
            strictly falling.
    """

    alpha_bars: Float64[Tensor, " timestep"]

    @classmethod
    def cosine(cls, num_train_steps: int) -> "NoiseSchedule":
        """Return the cosine schedule with ``num_train_steps`` timesteps."""
        edges = torch.arange(num_train_steps + 1, dtype=torch.float64) / num_train_steps
        f = torch.cos((edges + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)).square()
        betas = (1 - f[1:] / f[:-1]).clamp(max=_LARGEST_BETA)
        return cls(alpha_bars=torch.cumprod(1 - betas, dim=0))

    @property
    def num_train_steps(self) -> int:
        """Timesteps T."""
        return len(self.alpha_bars)

    def time(self, timestep: int) -> float:
        """Return the time in (0, 1] that ``timestep`` stands for."""
        return (timestep + 1) / self.num_train_steps

    def alpha_bar(self, time: PerExample) -> Float64[Tensor, " batch"]:
        """Return alpha_bar at the timestep nearest to ``time``, on the device of ``time``.

        It stays float64: near the clean end 1 - alpha_bar loses three digits in float32. Whoever
        multiplies latents with it takes the square root first and casts last.
        """
        timestep = (time.double() * self.num_train_steps).round().long() - 1
        return self.alpha_bars.to(time.device)[timestep.clamp(0, self.num_train_steps - 1)]

    def snr(self, time: PerExample) -> Float64[Tensor, " batch"]:
        """Return the signal-to-noise ratio alpha_bar / (1 - alpha_bar) at ``time``."""
        alpha_bar = self.alpha_bar(time)
        return alpha_bar / (1 - alpha_bar)

    def sampling_timesteps(self, num_steps: int, first: int | None = None) -> list[int]:
        """Return ``num_steps`` falling timesteps, evenly spaced.

        The spacing is the "trailing" one of Lin et al. 2023, Table 2: it includes the first
        timestep, where sampling starts from pure noise, whatever the number of steps.

        Args:
            num_steps: Calls of the solver; more than there are timesteps count as all of them.
            first: The noisiest timestep; T - 1 when absent.
        """
        total = (self.num_train_steps - 1 if first is None else first) + 1
        num_steps = min(num_steps, total)
        return [round(total * (num_steps - i) / num_steps) - 1 for i in range(num_steps)]
