"""Volumes side by side as one PNG: real over reconstructed over synthetic, in the same grey window.

Volumes are cut through the middle in three planes; a stack of few slices is shown whole. The view
is radiological: the patient's right is on the left, anterior is up in axial slices and left in
sagittal ones, superior is up. Intensities -1 and 1 are black and white in every picture, never the
range of a single volume, so that lost contrast looks like lost contrast. Voxels are not smoothed.
Where volumes carry a label map, its classes are outlined.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from common.artifact import write_bytes_atomic
from common.errors import VolumeShapeError
from common.shapes import VolumeBatch
from common.volume.labels import LabelMaps, from_channels
from common.volume.spec import VolumeSpec
from experiments.montage_figure import Image, Line, Plane, Tile, draw

NORMAL_AXIS: Mapping[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
VOLUMES_ABREAST = 4
MAX_LINES = 12
FEW_SLICES = 12


def montage(rows: Mapping[str, VolumeBatch], path: Path, spec: VolumeSpec) -> Path:
    """Draw volumes into a PNG and return its path.

    Args:
        rows: Title and volumes [n, channel, x, y, z] in [-1, 1], with or without the channels of their label
            maps behind the image's; volume i of every row stands in the same column. Those beyond twelve
            lines are left out.
        path: Where to; the folder is created.
        spec: Channels and spacing. An axis whose spacing says ``keep``, or of at most 12 voxels, is
            one of slices that are shown all.

    Raises:
        VolumeShapeError: No volumes, or volumes whose channels are not the study's.
        ArtifactError: The disk is full or not writable.
    """
    for title, volumes in rows.items():
        known = volumes.ndim == 5 and volumes.shape[1] in (spec.num_channels, spec.num_codec_channels)
        if not known or len(volumes) == 0:
            raise VolumeShapeError(
                f"{title}: volumes of shape {tuple(volumes.shape)} for channels {', '.join(spec.channels)}",
                "give at least one volume [n, channel, x, y, z]",
            )
    if not rows:
        raise VolumeShapeError("a montage of no volumes", "give at least one row")
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled = any(volumes.shape[1] > spec.num_channels for volumes in rows.values())
    classes = tuple(one.name for one in spec.labels) if labelled else ()
    write_bytes_atomic(path, draw(list(_lines(rows, spec)), _foot(spec), classes))
    return path


def slice_image(volume: Image, plane: Plane, index: int) -> Image:
    """Return slice ``index`` of a volume or label map [x, y, z] (RAS) as a picture in radiological view."""
    section: Image = np.take(volume, index, axis=NORMAL_AXIS[plane])
    return np.flip(section).T


def stack_plane(spec: VolumeSpec) -> Plane | None:
    """Return the plane of the slices if the volumes are stacks of few, else None."""
    kept = [axis for axis in range(3) if spec.spacing_mm[axis] == "keep"]
    few = [axis for axis in range(3) if spec.shape[axis] <= FEW_SLICES]
    candidates = kept or few
    if not candidates:
        return None
    thinnest = min(candidates, key=lambda axis: spec.shape[axis])
    return next(plane for plane, axis in NORMAL_AXIS.items() if axis == thinnest)


def _lines(rows: Mapping[str, VolumeBatch], spec: VolumeSpec) -> Iterator[Line]:
    """Yield the lines from top to bottom: volumes in groups, in each group every title and channel."""
    abreast = 1 if stack_plane(spec) else VOLUMES_ABREAST
    longest = max(len(volumes) for volumes in rows.values())
    groups = max(1, MAX_LINES // (len(rows) * spec.num_channels))
    last = min(longest, groups * abreast)
    for start in range(0, last, abreast):
        for title, volumes in rows.items():
            shown = volumes[start : start + abreast].detach().cpu().float()
            label_maps = _label_maps(shown, spec)
            for channel, name in enumerate(spec.channels):
                if len(shown):
                    which = _numbers(start, len(shown)) if last > abreast else ""
                    yield Line(
                        title=title + which if channel == 0 else "",
                        label=name if spec.num_channels > 1 else "",
                        volumes=tuple(
                            tuple(_tiles(volume[channel].numpy(), label_map.numpy(), spec))
                            for volume, label_map in zip(shown, label_maps, strict=True)
                        ),
                    )


def _numbers(start: int, count: int) -> str:
    return f" {start + 1}" if count == 1 else f" {start + 1} to {start + count}"


def _label_maps(volumes: VolumeBatch, spec: VolumeSpec) -> LabelMaps:
    """Return the label map that each volume carries; nothing but background if it carries none."""
    if volumes.shape[1] == spec.num_channels:
        return torch.zeros_like(volumes[:, 0], dtype=torch.long)
    return from_channels(volumes[:, spec.num_channels :])


def _tiles(volume: Image, label_map: Image, spec: VolumeSpec) -> Iterator[Tile]:
    stack = stack_plane(spec)
    if stack is not None:
        for index in range(volume.shape[NORMAL_AXIS[stack]]):
            yield _tile(volume, label_map, stack, index, f"slice {index + 1}", spec)
        return
    for plane in ("axial", "coronal", "sagittal"):
        yield _tile(volume, label_map, plane, volume.shape[NORMAL_AXIS[plane]] // 2, plane, spec)


def _tile(volume: Image, label_map: Image, plane: Plane, index: int, heading: str, spec: VolumeSpec) -> Tile:
    width, height = (axis for axis in range(3) if axis != NORMAL_AXIS[plane])
    spacing = spec.written_spacing_mm
    size_mm = (volume.shape[width] * spacing[width], volume.shape[height] * spacing[height])
    image, marked = (slice_image(each, plane, index) for each in (volume, label_map))
    return Tile(image, marked, plane, heading, size_mm)


def _foot(spec: VolumeSpec) -> str:
    stack = stack_plane(spec)
    direction = {"axial": "from inferior", "coronal": "from posterior", "sagittal": "from left"}
    what = f"All {stack} slices, {direction[stack]}" if stack else "Middle slices"
    view = "R: patient's right, A: anterior, S: superior"
    return f"{what}.  Radiological view ({view}).  One grey window, -1 to 1, for all."
