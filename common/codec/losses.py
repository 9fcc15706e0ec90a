"""What a reconstruction is punished for, one value per example."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.shapes import PerExample, VolumeBatch

LabelChannels = Float[Tensor, "batch class x y z"]
LOGITS = 4.0  # a perfect channel of -1 and 1 is then nearly certain of its class


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


def label_error(reconstruction: LabelChannels, labels: LabelChannels) -> PerExample:
    """Return the mean cross-entropy of each example's label map, over voxels.

    Args:
        reconstruction: What became of the channels; `LOGITS` times as much are the logits.
        labels: 1 where a voxel's class is, -1 elsewhere.
    """
    per_voxel = cross_entropy(LOGITS * reconstruction, labels.argmax(dim=1), reduction="none")
    return per_voxel.flatten(1).mean(dim=1)


def _amplitude(volume: VolumeBatch) -> Tensor:
    spectrum = torch.fft.rfftn(volume.float(), dim=(2, 3, 4), norm="ortho")
    # The root's slope is infinite at zero; the floor is far below the step of an 8-bit image.
    amplitude: Tensor = (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()
    return amplitude
