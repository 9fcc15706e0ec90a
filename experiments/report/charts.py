"""Line charts as inline SVG: no script, no file, sharp in print.

A site keeps its colour and its dash through the whole page (`strokes_of`); the colours stay apart for
colour-blind readers (Okabe & Ito 2008) and the dashes in black and white.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from experiments.report.history import Curve

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b6472")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_MOST_DOTS = 30  # beyond, dots hide the line
_LOG_FROM = 30.0  # ratio of largest to smallest value


@dataclass(frozen=True)
class Stroke:
    """How a site's lines look."""

    colour: str
    dash: str


def strokes_of(sites: Sequence[str]) -> dict[str, Stroke]:
    """Return a stroke per site; all differ up to 28 sites."""
    return {
        site: Stroke(
            _COLOURS[i % len(_COLOURS)], _DASHES[(i % len(_COLOURS) + i // len(_COLOURS)) % len(_DASHES)]
        )
        for i, site in enumerate(sites)
    }


def line_chart(curves: Iterable[Curve], strokes: Mapping[str, Stroke], label: str) -> str:
    """Return an SVG of the curves; empty if no value is finite. The axis is logarithmic over large ratios.

    Args:
        curves: One per site.
        strokes: Of every site in ``curves``.
        label: Read aloud in place of the picture.
    """
    drawn = {c.site: [(x, y) for x, y in c.points if math.isfinite(y)] for c in curves}
    values = [y for points in drawn.values() for _, y in points]
    rounds = [x for points in drawn.values() for x, _ in points]
    if not values:
        return ""
    vertical = _Axis.over(values, _HEIGHT - _BOTTOM, _TOP, may_be_log=True)
    horizontal = _Axis.over(rounds, _LEFT, _WIDTH - _RIGHT, may_be_log=False)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">',
        *_grid(vertical, horizontal),
    ]
    for site, points in drawn.items():
        parts.append(_line([(horizontal.place(x), vertical.place(y)) for x, y in points], strokes[site]))
    scale = "round (vertical axis logarithmic)" if vertical.logarithmic else "round"
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" class="mid">{scale}</text></svg>'
    )
    return "".join(parts)


def swatch(stroke: Stroke) -> str:
    """Return a short sample of a line, for the legend."""
    line = f'<path d="M0 5H28" {_paint(stroke)}/>'
    return f'<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels, with the values worth a tick."""

    low: float
    high: float
    first_px: float
    last_px: float
    logarithmic: bool
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], first_px: float, last_px: float, *, may_be_log: bool) -> "_Axis":
        low, high = float(min(values)), float(max(values))
        logarithmic = may_be_log and low > 0 and high / low > _LOG_FROM
        if logarithmic:
            ticks = _log_ticks(low, high)
        elif may_be_log:
            if low == high:
                low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
            ticks = _linear_ticks(low, high, smallest_step=0.0, around=True)
            low, high = ticks[0], ticks[-1]
        else:
            ticks = _linear_ticks(low, high, smallest_step=1.0, around=False)  # rounds are whole
        return cls(low, high, first_px, last_px, logarithmic, ticks)

    def place(self, value: float) -> float:
        if self.low == self.high:
            return (self.first_px + self.last_px) / 2
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.first_px + (at - low) / (high - low) * (self.last_px - self.first_px)


def _linear_ticks(low: float, high: float, *, smallest_step: float, around: bool) -> tuple[float, ...]:
    """Return three to seven multiples of 1, 2 or 5 times a power of ten, within the values or around."""
    if low == high:
        return (low,)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(next(m * power for m in (1, 2, 5, 10) if m * power >= rough), smallest_step)
    inward = (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
    outward = (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
    first, last = outward if around else inward
    return tuple(i * step for i in range(first, last + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1, math.ceil((last - first + 1) / 7))
    multiples = (1,) if last - first > 3 else (1, 3)
    return tuple(m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high)


def _grid(vertical: _Axis, horizontal: _Axis) -> Iterable[str]:
    for tick in vertical.ticks:
        y = vertical.place(tick)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{_short(tick)}</text>'
    for tick in horizontal.ticks:
        x = horizontal.place(tick)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" class="mid">{tick:.0f}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'


def _line(points: Sequence[tuple[float, float]], stroke: Stroke) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [f'<path d="{path}" {_paint(stroke)}/>'] if len(points) > 1 else []
    if len(points) <= _MOST_DOTS:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{stroke.colour}"/>' for x, y in points]
    return "".join(parts)


def _paint(stroke: Stroke) -> str:
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    return f'fill="none" stroke="{stroke.colour}" stroke-width="2"{dash}'


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
