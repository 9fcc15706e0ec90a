"""What a reconstruction is punished for, one value per example."""

import torch
from torch import Tensor

from common.shapes import PerExample, VolumeBatch


def absolute_error(reconstruction: VolumeBatch, volume: VolumeBatch) -> PerExample:
    """Return the mean absolute difference of each example."""
    return (reconstruction - volume).abs().flatten(1).mean(dim=1)


def squared_error(reconstruction: VolumeBatch, volume: VolumeBatch) -> PerExample:
    """Return the mean squared difference of each example."""
    return (reconstruction - volume).square().flatten(1).mean(dim=1)


def spectral_error(reconstruction: VolumeBatch, volume: VolumeBatch) -> PerExample:
    """Return the mean absolute difference of the amplitude spectra of each example.

    A perceptual term without weights to download (the spectral loss of Dhariwal et al. 2020, in 3D):
    blur loses amplitude at high frequencies, which voxel errors hardly see.
    """
    amplitudes = [_amplitude(image) for image in (reconstruction, volume)]
    return (amplitudes[0] - amplitudes[1]).abs().flatten(1).mean(dim=1)


def _amplitude(volume: VolumeBatch) -> Tensor:
    spectrum = torch.fft.rfftn(volume.float(), dim=(2, 3, 4), norm="ortho")
    # The root's slope is infinite at zero; the floor is far below the step of an 8-bit image.
    amplitude: Tensor = (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
    return amplitude
