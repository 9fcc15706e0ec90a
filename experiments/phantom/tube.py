"""Tubes of varying radius along a path, painted into a distance field one piece at a time."""

import itertools

import numpy as np
from numpy.typing import NDArray

from experiments.phantom.field import Field3

TubePath = NDArray[np.float32]  # (point, 4): three coordinates and the radius, in mm


def paint_tube(
    distance_mm: Field3, axes: tuple[Field3, Field3, Field3], voxel_mm: float, path: TubePath
) -> None:
    """Raise ``distance_mm`` (positive inside, in place) to that of a tube along ``path``.

    Each piece of the path touches only the voxels near it; further away the field is left as it is.

    Args:
        distance_mm: Distance inside whatever was painted before.
        axes: Monotonic coordinates along the field's axes, shaped to broadcast.
        voxel_mm: Edge of a voxel.
        path: At least two points.
    """
    lines = [axis.ravel() for axis in axes]
    for start, end in itertools.pairwise(path):
        margin = max(start[3], end[3]) + 2 * voxel_mm
        low, high = np.minimum(start, end) - margin, np.maximum(start, end) + margin
        box = tuple(_between(line, low[k], high[k]) for k, line in enumerate(lines))
        if any(part.start == part.stop for part in box):
            continue
        near = np.meshgrid(
            *(line[part] for line, part in zip(lines, box, strict=True)), indexing="ij", sparse=True
        )
        np.maximum(distance_mm[box], _inside(near, start, end), out=distance_mm[box])


def _inside(near: tuple[Field3, ...], start: NDArray[np.float32], end: NDArray[np.float32]) -> Field3:
    """Return the distance inside one piece: its radius there, less the distance from its centre line."""
    offsets = [axis - origin for axis, origin in zip(near, start[:3], strict=True)]
    along = end[:3] - start[:3]
    length_squared = max(float(along @ along), 1e-6)
    share = np.clip(sum(o * a for o, a in zip(offsets, along, strict=True)) / length_squared, 0, 1)
    gap = np.sqrt(sum((o - share * a) ** 2 for o, a in zip(offsets, along, strict=True)))
    return np.asarray(start[3] + share * (end[3] - start[3]) - gap, dtype=np.float32)


def _between(line: NDArray[np.float32], low: float, high: float) -> slice:
    """Return the indices of a monotonic ``line`` between ``low`` and ``high``."""
    hits = np.flatnonzero((line >= low) & (line <= high))
    return slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0)
