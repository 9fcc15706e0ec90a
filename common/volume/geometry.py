"""Geometry of a volume: orient, resample, crop or pad, each with its affine and its inverse.

The last three axes are x, y, z; axes before them (batch, channel) are carried along. Every step
reads its output voxel ``i`` at the input position ``scale * i + offset``, axis by axis, so one rule
moves every affine (voxel to mm, float64):

    A_out = A_in @ [[diag(scale), offset], [0, 1]]

Volumes are resampled about their centre: voxel centres are samples, the outer faces of the first and
last voxel are the border, and positions beyond the outermost centres repeat them.

>>> volume = torch.arange(4.0).reshape(1, 4, 1, 1)
>>> resample(volume, (1.0, 1.0, 1.0), (2.0, "keep", "keep"), "trilinear").flatten()
tensor([0.5000, 2.5000])
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Affine = NDArray[np.float64]  # 4 x 4, voxel to mm
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
TargetSpacing = tuple[float | Literal["keep"], float | Literal["keep"], float | Literal["keep"]]
Mode = Literal["trilinear", "nearest"]

# Headers keep spacing in single precision. An axis along which resampling would move no voxel by
# more than this share of a voxel is left alone, bit for bit.
NEGLIGIBLE_DRIFT_VOXELS = 1e-3


@dataclass(frozen=True)
class Orientation:
    """How to reach x, y, z: output axis ``a`` is input axis ``order[a]``, reversed if ``flipped[a]``."""

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]


def reorient(volume: Tensor, orientation: Orientation) -> Tensor:
    """Return ``volume`` with its last three axes permuted and reversed."""
    leading = volume.ndim - 3
    permuted = volume.permute(*range(leading), *(leading + axis for axis in orientation.order))
    return permuted.flip([leading + axis for axis in range(3) if orientation.flipped[axis]])


def undo_reorient(volume: Tensor, orientation: Orientation) -> Tensor:
    """Return ``volume`` as it was before `reorient`; exact."""
    leading = volume.ndim - 3
    flipped = volume.flip([leading + axis for axis in range(3) if orientation.flipped[axis]])
    return flipped.permute(*range(leading), *(leading + orientation.order.index(axis) for axis in range(3)))


def reoriented_affine(affine: Affine, shape: Sequence[int], orientation: Orientation) -> Affine:
    """Return the affine after `reorient`; ``shape`` is the one before."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, source in enumerate(orientation.order):
        step[source, axis] = -1 if orientation.flipped[axis] else 1
        step[source, 3] = shape[source] - 1 if orientation.flipped[axis] else 0
    return affine @ step


def spacing_of(affine: Affine) -> Spacing:
    """Return the distance in mm between voxel centres along each axis."""
    x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def centred_affine(shape: Sequence[int], spacing_mm: Spacing) -> Affine:
    """Return the RAS affine of a volume whose centre lies at 0 mm."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(size - 1) / 2 * spacing for size, spacing in zip(shape, spacing_mm, strict=True)]
    return affine


def resampled_shape(shape: Sequence[int], from_spacing: Spacing, to_spacing: TargetSpacing) -> Shape:
    """Return the x, y, z voxels that `resample` makes of ``shape``; at least one along each axis."""
    x, y, z = (axis.size for axis in _axes(shape, from_spacing, to_spacing))
    return x, y, z


def resample(volume: Tensor, from_spacing: Spacing, to_spacing: TargetSpacing, mode: Mode) -> Tensor:
    """Return ``volume`` sampled at ``to_spacing`` about the same centre.

    Linear interpolation does not low-pass: halving the resolution aliases what is finer.

    Args:
        volume: Floating point for ``trilinear``, any type for ``nearest``.
        from_spacing: Spacing of ``volume`` in mm.
        to_spacing: Spacing wanted in mm; ``keep`` leaves an axis as it is.
        mode: ``trilinear``, or ``nearest`` for label maps.
    """
    axes = _axes(volume.shape[-3:], from_spacing, to_spacing)
    positions = [axis.offset + axis.scale * _count(axis.size) for axis in axes]
    return _sample(volume, positions, mode)


def undo_resample(
    volume: Tensor, shape: Sequence[int], from_spacing: Spacing, to_spacing: TargetSpacing, mode: Mode
) -> Tensor:
    """Return ``volume`` back on the ``shape`` voxels it had before `resample` with the same spacings.

    Trilinear there and back moves a smooth field f by at most (from^2 + to^2) / 8 * max |f''|, summed
    over the axes; at the outer half voxel the border repeats. Nearest is exact when the grid between
    is finer by a whole number.
    """
    axes = _axes(shape, from_spacing, to_spacing)
    sizes = zip(axes, shape, strict=True)
    return _sample(volume, [(_count(size) - axis.offset) / axis.scale for axis, size in sizes], mode)


def resampled_affine(
    affine: Affine, shape: Sequence[int], from_spacing: Spacing, to_spacing: TargetSpacing
) -> Affine:
    """Return the affine after `resample`; ``shape`` is the one before."""
    axes = _axes(shape, from_spacing, to_spacing)
    step = np.diag([*(axis.scale for axis in axes), 1.0])
    step[:3, 3] = [axis.offset for axis in axes]
    return affine @ step


def crop_or_pad(volume: Tensor, shape: Shape, fill: float) -> Tensor:
    """Return ``volume`` cut or filled to ``shape`` about its centre.

    Of an odd difference the larger half is cut behind or filled before.
    """
    return _read_from(volume, _starts(volume.shape[-3:], shape), shape, fill)


def undo_crop_or_pad(volume: Tensor, shape: Shape, fill: float) -> Tensor:
    """Return ``volume`` back at the ``shape`` it had before `crop_or_pad`; what was cut is ``fill``."""
    starts = _starts(shape, volume.shape[-3:])
    return _read_from(volume, [-start for start in starts], shape, fill)


def cropped_affine(affine: Affine, from_shape: Sequence[int], to_shape: Sequence[int]) -> Affine:
    """Return the affine after `crop_or_pad` from one shape to the other."""
    step = np.eye(4)
    step[:3, 3] = _starts(from_shape, to_shape)
    return affine @ step


@dataclass(frozen=True)
class _Axis:
    """One axis of a resampling: its new size, and output voxel i = input scale * i + offset."""

    size: int
    scale: float
    offset: float


def _axes(shape: Sequence[int], from_spacing: Spacing, to_spacing: TargetSpacing) -> list[_Axis]:
    return [
        _axis(size, before, before if after == "keep" else after)
        for size, before, after in zip(shape, from_spacing, to_spacing, strict=True)
    ]


def _axis(size: int, before: float, after: float) -> _Axis:
    scale = after / before
    if abs(scale - 1) * size < NEGLIGIBLE_DRIFT_VOXELS:
        return _Axis(size, 1.0, 0.0)
    new_size = max(1, math.floor(size / scale + 0.5))
    return _Axis(new_size, scale, (size - 1) / 2 - scale * (new_size - 1) / 2)


def _count(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.float64)


def _sample(volume: Tensor, positions: Sequence[Tensor], mode: Mode) -> Tensor:
    """Return ``volume`` read at the grid of ``positions``, one vector of positions per axis."""
    for axis, wanted in zip((-3, -2, -1), positions, strict=True):
        last = volume.shape[axis] - 1
        inside = wanted.clamp(0, last)
        if torch.equal(inside, _count(last + 1)):
            continue
        if mode == "nearest":
            volume = volume.index_select(axis, (inside + 0.5).long().to(volume.device))
            continue
        lower = inside.long()
        upper = (lower + 1).clamp(max=last)
        weight = (inside - lower).to(volume.device, volume.dtype).reshape(-1, *[1] * (-1 - axis))
        volume = torch.lerp(
            volume.index_select(axis, lower.to(volume.device)),
            volume.index_select(axis, upper.to(volume.device)),
            weight,
        )
    return volume


def _starts(from_shape: Sequence[int], to_shape: Sequence[int]) -> list[int]:
    """Return where output voxel 0 of a centred crop lies in the input; negative when padding."""
    return [(before - after) // 2 for before, after in zip(from_shape, to_shape, strict=True)]


def _read_from(volume: Tensor, starts: Sequence[int], shape: Sequence[int], fill: float) -> Tensor:
    """Return the box of ``shape`` that begins at ``starts``; a negative padding cuts."""
    sizes = zip(starts, shape, volume.shape[-3:], strict=True)
    paddings = [(-start, start + after - before) for start, after, before in sizes]
    return functional.pad(volume, [side for pair in reversed(paddings) for side in pair], value=fill)
