"""How close a reconstruction is to its original: PSNR, MS-SSIM, intensity kept.

    PSNR = 10 log10(range² / MSE)
    MS-SSIM = cs_1^0.3 · cs_2^0.4 · (l_3 cs_3)^0.3    (Wang, Simoncelli & Bovik 2003, Eq. 7)

with the contrast-structure terms cs of three scales and the luminance term l of the coarsest; a scale
on which the two are anticorrelated counts as 0. The sums are MONAI's; this module fixes what its
defaults leave open. Intensities are in [-1, 1], so the range is 2, and they are moved to [0, 2]
first: the luminance term 2 m m' / (m² + m'²) supposes intensities that are not negative, and would
call mid-grey (0) against 0.03 another image. A stack of few slices has no third dimension to
downsample: its slices are compared in 2D.

>>> volume = torch.rand(1, 1, 32, 32, 32) * 2 - 1
>>> ms_ssim(volume, volume).item(), psnr(volume, volume + 0.02).round().item()
(1.0, 40.0)
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.errors import MetricError, NonFiniteVolumeError
from common.shapes import PerExample, VolumeBatch

DATA_RANGE = 2.0
KERNEL_SIZE = 7
SCALE_WEIGHTS = (0.3, 0.4, 0.3)
SMALLEST_SIDE = KERNEL_SIZE * 2 ** (len(SCALE_WEIGHTS) - 1)  # the kernel fits the coarsest scale

SliceAxis = Literal["x", "y", "z"]


def psnr(reconstruction: VolumeBatch, original: VolumeBatch, data_range: float = DATA_RANGE) -> PerExample:
    """Return each volume's PSNR in dB, from its own mean squared error; equal volumes give infinity."""
    _check_comparable(reconstruction, original)
    return _decibel(_squared_error(reconstruction, original).flatten(1).mean(dim=1), data_range)


def psnr_over_global_mse(
    reconstruction: VolumeBatch, original: VolumeBatch, data_range: float = DATA_RANGE
) -> float:
    """Return one PSNR in dB from the mean squared error over all voxels of all volumes.

    It is never above the mean of `psnr` (the logarithm is concave): state which one is meant.
    """
    _check_comparable(reconstruction, original)
    return float(_decibel(_squared_error(reconstruction, original).mean(), data_range))


def ms_ssim(
    reconstruction: VolumeBatch, original: VolumeBatch, slice_axis: SliceAxis | None = None
) -> PerExample:
    """Return each volume's MS-SSIM in [0, 1].

    Args:
        reconstruction: Volumes in [-1, 1].
        original: What they are compared with.
        slice_axis: ``None`` compares in 3D; an axis compares the slices normal to it in 2D, and
            the value of a volume is the mean over its slices.

    Raises:
        MetricError: A compared side is shorter than 28 voxels.
        NonFiniteVolumeError: NaN or infinite voxels, of which MONAI would make NaN or 0 silently.
    """
    from monai.metrics.regression import compute_ms_ssim  # a second that most processes never need

    _check_comparable(reconstruction, original)
    count = len(original)
    if slice_axis is not None:
        reconstruction, original = (_slices(v, slice_axis) for v in (reconstruction, original))
    sides = tuple(original.shape[2:])
    if min(sides) < SMALLEST_SIDE:
        raise MetricError(
            f"MS-SSIM over {sides} voxels: the shortest side is below {SMALLEST_SIDE}",
            "for a stack of few slices pass slice_axis; smaller volumes have no three scales",
        )
    # TF32 convolutions keep 10 bits: too few for a variance that is a difference of two moments.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        values: Tensor = compute_ms_ssim(
            reconstruction.float() + DATA_RANGE / 2,
            original.float() + DATA_RANGE / 2,
            spatial_dims=len(sides),
            data_range=DATA_RANGE,
            kernel_size=KERNEL_SIZE,
            weights=SCALE_WEIGHTS,
        )
    return values.double().reshape(count, -1).mean(dim=1)


def intensity_std_ratio(reconstruction: VolumeBatch, original: VolumeBatch) -> PerExample:
    """Return the share of each original's intensity standard deviation that its reconstruction keeps.

    A codec that collapses to a constant scores 0 here while its PSNR may still look respectable.

    Raises:
        MetricError: An original is constant: it has no deviation to keep.
    """
    _check_comparable(reconstruction, original)
    kept, had = (v.double().flatten(1).std(dim=1, correction=0) for v in (reconstruction, original))
    if (had == 0).any():
        raise MetricError(
            f"original {int((had == 0).nonzero()[0])} is constant: it has no intensity deviation to keep",
            "remove the empty volume from the dataset",
        )
    return kept / had


def patient_means(values: PerExample, patients: Sequence[str]) -> dict[str, float]:
    """Return the mean value of each patient, in name order: the patient is the statistical unit.

    Args:
        values: One value per volume.
        patients: Whose each volume is.

    Raises:
        MetricError: The two do not have the same length, or are empty.
    """
    if len(values) != len(patients) or len(values) == 0:
        raise MetricError(
            f"{len(values)} values for {len(patients)} volumes' patients", "give one patient per value"
        )
    gathered: dict[str, list[float]] = {name: [] for name in sorted(patients)}
    for value, name in zip(values.tolist(), patients, strict=True):
        gathered[name].append(value)
    return {name: sum(own) / len(own) for name, own in gathered.items()}


def mean_over_patients(values: PerExample, patients: Sequence[str]) -> float:
    """Return the mean over patients of each patient's mean: many volumes do not make a patient weigh more."""
    means = patient_means(values, patients)
    return sum(means.values()) / len(means)


def _squared_error(reconstruction: VolumeBatch, original: VolumeBatch) -> VolumeBatch:
    return (reconstruction.double() - original.double()).square()


def _decibel(mse: Tensor, data_range: float) -> Tensor:
    return 10 * torch.log10(data_range**2 / mse)


def _slices(volumes: VolumeBatch, axis: SliceAxis) -> Tensor:
    """Return [batch · slices, channel, side, side]; a volume's slices stay together."""
    return volumes.movedim(2 + "xyz".index(axis), 1).flatten(0, 1)


def _check_comparable(reconstruction: VolumeBatch, original: VolumeBatch) -> None:
    if reconstruction.shape != original.shape:
        raise MetricError(
            f"volumes of shape {tuple(reconstruction.shape)} and {tuple(original.shape)} cannot be compared",
            "bring both to the study's volume spec",
        )
    for name, volumes in (("reconstruction", reconstruction), ("original", original)):
        bad = [i for i, volume in enumerate(volumes) if not bool(volume.isfinite().all())]
        if bad:
            raise NonFiniteVolumeError(
                f"{name}: volumes {bad[:5]} hold NaN or infinite voxels", "leave them out and say so"
            )
