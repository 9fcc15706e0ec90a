"""Texture: does a volume keep the contrast inside the object, and is that contrast structure or noise?

Two numbers per channel, both inside the foreground: Otsu's threshold (Otsu 1979), then an erosion by two
voxels so that the object's outline, which any blurred generator keeps, does not count.

- contrast: 90th minus 10th percentile of intensity. Blur lowers it; noise raises it again.
- high-frequency energy: the share of the intensity's variance that lies above half the Nyquist frequency.
  Blur lowers it; noise that makes up for lost contrast drives it toward that of white noise, 0.93.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor

from common.errors import DataError
from common.shapes import VolumeBatch

EROSION_VOXELS = 2
HALF_NYQUIST = 0.25  # cycles per voxel
NEGLIGIBLE = 1e-20  # of the squared intensity: rounding of a constant in float64

Image = NDArray[np.float64]  # x y z
Mask = NDArray[np.bool_]  # x y z


@dataclass(frozen=True)
class TextureRatio:
    """Texture of test volumes relative to real ones; 1 is right in both.

    Attributes:
        contrast: Mean contrast of the test volumes over that of the real ones; below 1 is blur.
        high_frequency: The same of the share of high-frequency energy; well above 1 is noise. NaN where
            no test channel has a foreground.
        without_foreground: Test channels whose foreground vanished when eroded. They count as
            contrast 0, since they show no object, and not at all in the share of energy.
    """

    contrast: float
    high_frequency: float
    without_foreground: int


def otsu_threshold(image: Float[Tensor, "x y z"]) -> float:
    """Return the intensity that best splits ``image`` in two (Otsu 1979, Eq. 14).

    Exact: every split between neighbouring distinct intensities is tried, without a histogram, and the
    middle of the best gap is returned. A constant image has no split: its only intensity is returned.
    """
    return _otsu(_array(image))


def eroded_foreground(image: Float[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Return the voxels above Otsu's threshold, eroded twice by the six-neighbourhood.

    The outside of the volume counts as background. The mask is empty where nothing is thick enough.
    """
    return torch.from_numpy(_foreground(_array(image)))


def foreground_contrast(image: Float[Tensor, "x y z"]) -> float:
    """Return P90 minus P10 inside the eroded foreground of one channel; NaN where that is empty."""
    array = _array(image)
    return _contrast(array, _foreground(array))


def high_frequency_energy(image: Float[Tensor, "x y z"]) -> float:
    """Return the share of variance above half Nyquist in the eroded foreground of one channel.

    White noise has the share of the spectrum outside a ball of radius 1/4 cycle per voxel, about 0.93.
    0 where the foreground is constant, NaN where it is empty.
    """
    array = _array(image)
    return _high_frequency(array, _foreground(array))


def texture_ratio(test_volumes: VolumeBatch, real_volumes: VolumeBatch) -> TextureRatio:
    """Return the texture of ``test_volumes`` over that of ``real_volumes``, means over volumes and channels.

    The two need not be paired nor equally many, but must have been normalized alike.

    Raises:
        DataError: Either batch is empty, or a real volume has no foreground or no texture.
    """
    test, real = _measure(test_volumes), _measure(real_volumes)
    if not len(test) or not len(real):
        raise DataError(
            f"texture of {len(test)} test and {len(real)} real channels", "give at least one volume of each"
        )
    if np.isnan(real).any():
        raise DataError(
            f"{int(np.isnan(real[:, 0]).sum())} of {len(real)} real channels have no foreground "
            f"{2 * EROSION_VOXELS + 1} voxels thick",
            "measure texture on volumes that show an object",
        )
    reference = real.mean(axis=0)
    if not reference.all():
        raise DataError("the real volumes have no texture at all", "check that they are not constant")
    missing = np.isnan(test[:, 0])
    contrast = np.where(missing, 0.0, test[:, 0]).mean()
    share = test[~missing, 1].mean() if not missing.all() else float("nan")
    return TextureRatio(float(contrast / reference[0]), float(share / reference[1]), int(missing.sum()))


def _measure(volumes: VolumeBatch) -> NDArray[np.float64]:
    """Return (contrast, share of high-frequency energy) of every channel of every volume."""
    rows = []
    for volume in volumes:
        for channel in volume:
            array = _array(channel)
            mask = _foreground(array)
            rows.append((_contrast(array, mask), _high_frequency(array, mask)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _array(image: Tensor) -> Image:
    """Return ``image`` in float64 on the CPU: sums must not depend on the device."""
    return image.detach().cpu().double().numpy()


def _otsu(image: Image) -> float:
    values, counts = np.unique(image, return_counts=True)
    if len(values) == 1:
        return float(values[0])
    below = np.cumsum(counts)[:-1]
    above = image.size - below
    sum_below = np.cumsum(values * counts)[:-1]
    mean_gap = sum_below / below - (image.sum() - sum_below) / above
    between_class_variance = below * above * mean_gap**2
    best = int(np.argmax(between_class_variance))
    return float((values[best] + values[best + 1]) / 2)


def _foreground(image: Image) -> Mask:
    mask: Mask = ndimage.binary_erosion(image > _otsu(image), iterations=EROSION_VOXELS)
    return mask


def _contrast(image: Image, mask: Mask) -> float:
    if not mask.any():
        return float("nan")
    low, high = np.percentile(image[mask], [10, 90])
    return float(high - low)


def _high_frequency(image: Image, mask: Mask) -> float:
    """Return the share of variance in ``mask`` that passes an ideal high-pass filter at half Nyquist.

    Voxels outside take the value of the nearest one inside, so that the object's edge is not counted;
    the cosine transform mirrors at the border, so that opposite sides of the volume do not meet.
    """
    if not mask.any():
        return float("nan")
    variance = np.var(image[mask])
    if variance <= NEGLIGIBLE * np.max(image[mask] ** 2):
        return 0.0
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    extended = image[tuple(nearest)]
    spectrum = fft.dctn(extended, norm="ortho")
    filtered = fft.idctn(np.where(_is_high(image.shape), spectrum, 0), norm="ortho")
    return float(np.mean(filtered[mask] ** 2) / variance)


def _is_high(shape: tuple[int, ...]) -> Mask:
    """Return which coefficients of a cosine transform lie above half Nyquist.

    Coefficient k of n along an axis oscillates at k / 2n cycles per voxel.
    """
    frequencies = np.meshgrid(*(np.arange(n) / (2 * n) for n in shape), indexing="ij", sparse=True)
    is_high: Mask = np.sqrt(sum(f**2 for f in frequencies)) > HALF_NYQUIST
    return is_high
