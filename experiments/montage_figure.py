"""The drawing of a montage: lines of tiles, each an image with the outlines of its label map."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # half a second that most commands never need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plane = Literal["axial", "coronal", "sagittal"]
Image = NDArray[np.float32]

EDGES: Mapping[Plane, tuple[str, str]] = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}

_WIDTH_PX = 1600
_MAX_PX_PER_VOXEL = 6
_DPI = 100
_GAP, _VOLUME_GAP, _TITLE, _HEADING, _LABEL, _MARGIN, _FOOT = 4, 20, 40, 20, 26, 18, 40  # pixels
_INK, _DIM, _MARK, _GROUND = "#e6e9ef", "#98a1b3", "#ffd166", "#0b0e14"
_OUTLINES = ("#4cc9f0", "#ff5d8f", "#9ef01a", "#ff9f1c")  # of classes, in their order, then again


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice, ready to be drawn: row 0 is the top, column 0 the left.

    Attributes:
        image: Intensities in [-1, 1].
        label_map: On the same pixels: 0 is background, 1 the first class, and so on.
        plane: Which way it was cut.
        heading: What stands above it in the first line.
        size_mm: Width and height.
    """

    image: Image
    label_map: Image
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


def draw(lines: Sequence[Line], foot: str, classes: Sequence[str]) -> bytes:
    """Return the PNG; positions are computed in pixels from the top left.

    Args:
        lines: From top to bottom.
        foot: Stands below them.
        classes: Names of those that label maps tell apart; none if there are no label maps.
    """
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
    _name_classes(figure, classes)
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
    axes.autoscale(False)
    for number in np.unique(tile.label_map[tile.label_map > 0]):
        axes.contour(
            np.pad(tile.label_map == number, 1),
            levels=[0.5],
            colors=[_outline(int(number))],
            linewidths=1.5,
            extent=(-1, tile.image.shape[1], -1, tile.image.shape[0]),  # of the centres, padding included
        )
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


def _outline(number: int) -> str:
    return _OUTLINES[(number - 1) % len(_OUTLINES)]


def _name_classes(figure: "Figure", classes: Sequence[str]) -> None:
    """Write the classes in the colours of their outlines, at the top right."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_outline(i), label=name) for i, name in enumerate(classes, start=1)]
    if handles:
        figure.legend(
            handles=handles, loc="upper right", ncols=len(handles), frameon=False, labelcolor="linecolor"
        )
