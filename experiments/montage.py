"""Volumes side by side as one PNG: real over reconstructed over synthetic, in the same grey window.

Volumes are cut through the middle in three planes; a stack of few slices is shown whole. The view
is radiological: the patient's right is on the left, anterior is up in axial slices and left in
sagittal ones, superior is up. Intensities -1 and 1 are black and white in every picture, never the
range of a single volume, so that lost contrast looks like lost contrast. Voxels are not smoothed.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.artifact import write_bytes_atomic
from common.errors import VolumeShapeError
from common.shapes import VolumeBatch
from common.volume.spec import VolumeSpec

if TYPE_CHECKING:  # half a second that most commands never need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plane = Literal["axial", "coronal", "sagittal"]
Image = NDArray[np.float32]

NORMAL_AXIS: Mapping[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
EDGES: Mapping[Plane, tuple[str, str]] = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}
VOLUMES_ABREAST = 4
MAX_LINES = 12
FEW_SLICES = 12

_WIDTH_PX = 1600
_MAX_PX_PER_VOXEL = 6
_DPI = 100
_GAP, _VOLUME_GAP, _TITLE, _HEADING, _LABEL, _MARGIN, _FOOT = 4, 20, 40, 20, 26, 18, 40  # pixels
_INK, _DIM, _MARK, _GROUND = "#e6e9ef", "#98a1b3", "#ffd166", "#0b0e14"


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice, ready to be drawn: row 0 is the top, column 0 the left.

    Attributes:
        image: Intensities in [-1, 1].
        plane: Which way it was cut.
        heading: What stands above it in the first line.
        size_mm: Width and height.
    """

    image: Image
    plane: Plane
    heading: str
    size_mm: tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Volumes abreast, each a few tiles; ``title`` stands above the line, ``label`` beside it."""

    title: str
    label: str
    volumes: tuple[tuple[Tile, ...], ...]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles from left to right."""
        return tuple(tile for volume in self.volumes for tile in volume)

    @property
    def gaps_px(self) -> int:
        """Width of the space between the tiles."""
        return _GAP * (len(self.tiles) - len(self.volumes)) + _VOLUME_GAP * (len(self.volumes) - 1)


def montage(rows: Mapping[str, VolumeBatch], path: Path, spec: VolumeSpec) -> Path:
    """Draw volumes into a PNG and return its path.

    Args:
        rows: Title and volumes [n, channel, x, y, z] in [-1, 1]; volume i of every row stands in the
            same column. Those beyond twelve lines are left out.
        path: Where to; the folder is created.
        spec: Channels and spacing. An axis whose spacing says ``keep``, or of at most 12 voxels, is
            one of slices that are shown all.

    Raises:
        VolumeShapeError: No volumes, or volumes whose channels are not the study's.
        ArtifactError: The disk is full or not writable.
    """
    for title, volumes in rows.items():
        if volumes.ndim != 5 or volumes.shape[1] != spec.num_channels or len(volumes) == 0:
            raise VolumeShapeError(
                f"{title}: volumes of shape {tuple(volumes.shape)} for channels {', '.join(spec.channels)}",
                "give at least one volume [n, channel, x, y, z]",
            )
    if not rows:
        raise VolumeShapeError("a montage of no volumes", "give at least one row")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, _draw(list(_lines(rows, spec)), _foot(spec)))
    return path


def slice_image(volume: Image, plane: Plane, index: int) -> Image:
    """Return slice ``index`` of a volume [x, y, z] (RAS) as a picture in radiological view."""
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
            shown = volumes[start : start + abreast].detach().cpu().float().numpy()
            for channel, name in enumerate(spec.channels):
                if len(shown):
                    which = _numbers(start, len(shown)) if last > abreast else ""
                    yield Line(
                        title=title + which if channel == 0 else "",
                        label=name if spec.num_channels > 1 else "",
                        volumes=tuple(tuple(_tiles(volume[channel], spec)) for volume in shown),
                    )


def _numbers(start: int, count: int) -> str:
    return f" {start + 1}" if count == 1 else f" {start + 1} to {start + count}"


def _tiles(volume: Image, spec: VolumeSpec) -> Iterator[Tile]:
    stack = stack_plane(spec)
    if stack is not None:
        for index in range(volume.shape[NORMAL_AXIS[stack]]):
            yield _tile(volume, stack, index, f"slice {index + 1}", spec)
        return
    for plane in ("axial", "coronal", "sagittal"):
        yield _tile(volume, plane, volume.shape[NORMAL_AXIS[plane]] // 2, plane, spec)


def _tile(volume: Image, plane: Plane, index: int, heading: str, spec: VolumeSpec) -> Tile:
    width, height = (axis for axis in range(3) if axis != NORMAL_AXIS[plane])
    spacing = spec.written_spacing_mm
    size_mm = (volume.shape[width] * spacing[width], volume.shape[height] * spacing[height])
    return Tile(slice_image(volume, plane, index), plane, heading, size_mm)


def _foot(spec: VolumeSpec) -> str:
    stack = stack_plane(spec)
    direction = {"axial": "from inferior", "coronal": "from posterior", "sagittal": "from left"}
    what = f"All {stack} slices, {direction[stack]}" if stack else "Middle slices"
    view = "R: patient's right, A: anterior, S: superior"
    return f"{what}.  Radiological view ({view}).  One grey window, -1 to 1, for all."


def _draw(lines: Sequence[Line], foot: str) -> bytes:
    """Return the PNG; positions are computed in pixels from the top left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    label = _LABEL if any(line.label for line in lines) else 0
    px_per_mm = min(_scale(line, _WIDTH_PX - 2 * _MARGIN - label) for line in lines)
    heights = [max(tile.size_mm[1] for tile in line.tiles) * px_per_mm for line in lines]
    titles = sum(_TITLE if line.title else _GAP for line in lines)
    total = 2 * _MARGIN + _HEADING + _FOOT + sum(heights) + titles
    figure = Figure(figsize=(_WIDTH_PX / _DPI, total / _DPI), dpi=_DPI, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    first_of_plane = {tile.plane: tile for tile in reversed(lines[0].tiles)}
    top = float(_MARGIN)
    for number, (line, height) in enumerate(zip(lines, heights, strict=True)):
        if line.title:
            _write(figure, (_MARGIN, top + _TITLE / 2), line.title, fontsize=13, fontweight="bold")
        top += _TITLE if line.title else _GAP
        if number == 0:
            _write_headings(figure, line, (_MARGIN + label, top + _HEADING / 2 - 2), px_per_mm)
            top += _HEADING
        if line.label:
            at = (_MARGIN + _LABEL / 2 - 4, top + height / 2)
            _write(figure, at, line.label, fontsize=10, color=_DIM, rotation=90, ha="center")
        for left, tile in _placed(line, _MARGIN + label, px_per_mm):
            width_px, height_px = (extent * px_per_mm for extent in tile.size_mm)
            bottom = total - top - (height + height_px) / 2  # lower tiles are centred in their line
            box = (left / _WIDTH_PX, bottom / total, width_px / _WIDTH_PX, height_px / total)
            _draw_tile(figure.add_axes(box), tile, marked=tile is first_of_plane.get(tile.plane))
        top += height
    _write(figure, (_MARGIN, top + _FOOT / 2 + 4), foot, fontsize=10, color=_DIM)
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=_GROUND, metadata={"Software": None})
    return content.getvalue()


def _scale(line: Line, width_px: float) -> float:
    """Return the pixels per millimetre at which ``line`` fills the width, or voxels are large enough."""
    smallest_voxel = min(
        extent / pixels
        for tile in line.tiles
        for extent, pixels in zip(tile.size_mm, reversed(tile.image.shape), strict=True)
    )
    filling = (width_px - line.gaps_px) / sum(tile.size_mm[0] for tile in line.tiles)
    return float(min(filling, _MAX_PX_PER_VOXEL / smallest_voxel))


def _placed(line: Line, left: float, px_per_mm: float) -> Iterator[tuple[float, Tile]]:
    """Yield each tile with the pixel at which it begins."""
    for volume in line.volumes:
        for tile in volume:
            yield left, tile
            left += tile.size_mm[0] * px_per_mm + _GAP
        left += _VOLUME_GAP - _GAP


def _write_headings(figure: "Figure", line: Line, at: tuple[float, float], px_per_mm: float) -> None:
    for left, tile in _placed(line, at[0], px_per_mm):
        centre = left + tile.size_mm[0] * px_per_mm / 2
        _write(figure, (centre, at[1]), tile.heading, fontsize=9, color=_DIM, ha="center")


def _draw_tile(axes: "Axes", tile: Tile, marked: bool) -> None:
    from matplotlib import patheffects

    axes.imshow(tile.image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    if marked:
        left, top = EDGES[tile.plane]
        style: dict[str, Any] = {
            "transform": axes.transAxes,
            "color": _MARK,
            "fontsize": 9,
            "path_effects": [patheffects.withStroke(linewidth=2, foreground="black")],
        }
        axes.text(0.02, 0.5, left, ha="left", va="center", **style)
        axes.text(0.5, 0.98, top, ha="center", va="top", **style)


def _write(figure: "Figure", at: tuple[float, float], text: str, **style: Any) -> None:
    """Write text at a pixel counted from the top left."""
    width, height = figure.get_size_inches() * _DPI
    arguments = {"va": "center", "color": _INK, **style}
    figure.text(at[0] / width, 1 - at[1] / height, text, **arguments)
