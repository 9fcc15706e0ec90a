"""Intensities to [-1, 1] and back, through one window per exam.

The window is measured before padding and holds for all channels of an exam: the phases of one
contrast series keep their ratios. Padding comes after scaling and fills with `BACKGROUND`, which is
what the window's low end, air, scales to.

>>> window = Window(low=0.0, high=200.0)
>>> window.normalize(torch.tensor([-5.0, 0.0, 50.0, 300.0]))
tensor([-1.0000, -1.0000, -0.5000,  1.0000])
>>> window.denormalize(torch.tensor([-1.0, -0.5, 1.0]))
tensor([  0.,  50., 200.])
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import ConstantVolumeError
from common.shapes import Volume
from common.volume.spec import FixedWindow, PercentileWindow, VolumeSpec

BACKGROUND = -1.0


@dataclass(frozen=True)
class Window:
    """The intensities that become -1 and 1.

    Raises:
        ConstantVolumeError: ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConstantVolumeError(
                f"the intensity window from {self.low:g} to {self.high:g} is empty",
                "the exam is constant, or nearly all background: remove it, or widen volume.intensity",
            )

    def normalize(self, volume: Tensor) -> Tensor:
        """Return ``volume`` scaled to [-1, 1]; what lies outside the window is clipped."""
        share = (volume.double() - self.low) / (self.high - self.low)
        return (2 * share - 1).clamp(-1, 1).to(volume.dtype)

    def denormalize(self, volume: Tensor) -> Tensor:
        """Return intensities for a volume in [-1, 1]; undoes `normalize` but for the clipping."""
        share = (volume.double() + 1) / 2
        return (self.low + share * (self.high - self.low)).to(volume.dtype)


def window_of(volume: Volume, spec: VolumeSpec) -> Window:
    """Return the window of one exam, over all its channels, before any padding.

    Raises:
        ConstantVolumeError: The window would be empty, or no voxel lies inside a fixed one.
    """
    match spec.intensity:
        case PercentileWindow(low=low, high=high):
            voxels = volume.detach().cpu().numpy()
            return Window(float(np.percentile(voxels, low)), float(np.percentile(voxels, high)))
        case FixedWindow(low=low, high=high):
            lowest, highest = float(torch.min(volume)), float(torch.max(volume))
            if highest <= low or lowest >= high:
                raise ConstantVolumeError(
                    f"intensities from {lowest:g} to {highest:g} all lie outside the study's window "
                    f"from {low:g} to {high:g}",
                    "check the unit of the file: the study's volume.intensity may be meant for HU",
                )
            return Window(low, high)
