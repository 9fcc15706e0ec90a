"""Charts put values where they belong and keep sites apart."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.report.charts import line_chart, strokes_of
from experiments.report.history import Curve

STROKES = strokes_of(["a", "b"])


def curve(values, site="a"):
    return Curve("codec", "loss", site, tuple(enumerate(values, start=1)))


def chart(*curves):
    return parsed(line_chart(curves, STROKES, "loss"))


def parsed(svg):
    return ElementTree.fromstring(svg)  # noqa: S314 - our own output


def dots(svg):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]


def labels(svg, kind):
    return [text.text for text in svg.iter("text") if text.get("class") == kind]


def test_values_lie_on_a_straight_scale():
    places = dots(chart(curve([1.0, 2.0, 4.0])))
    assert places[0][0] < places[1][0] < places[2][0]
    rise = [places[i][1] - places[i + 1][1] for i in range(2)]
    assert rise[1] == pytest.approx(2 * rise[0], abs=0.2)


def test_a_value_lies_on_its_tick():
    svg = chart(curve([0.0, 0.4, 0.8]))
    grid = [float(re.findall(r"[\d.]+", p.get("d"))[1]) for p in svg.iter("path") if p.get("class") == "grid"]
    assert labels(svg, "end") == ["0", "0.2", "0.4", "0.6", "0.8"]
    for value, (_, y) in zip((0, 2, 4), dots(svg), strict=True):
        assert y == pytest.approx(grid[value], abs=0.11)


def test_large_ratios_are_drawn_logarithmically():
    svg = chart(curve([1.0, 10.0, 100.0]))
    heights = [y for _, y in dots(svg)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert "logarithmic" in "".join(svg.itertext())
    assert "logarithmic" not in "".join(chart(curve([1.0, 10.0])).itertext())
    assert "logarithmic" not in "".join(chart(curve([0.0, 100.0])).itertext())


def test_values_that_are_not_finite_are_left_out():
    assert len(dots(chart(curve([1.0, math.nan, math.inf, 2.0])))) == 2
    assert line_chart([curve([math.nan])], STROKES, "loss") == ""
    assert line_chart([], STROKES, "loss") == ""


def test_one_round_is_a_dot_and_a_constant_is_a_level_line():
    assert len(dots(chart(curve([0.3])))) == 1
    heights = {y for _, y in dots(chart(curve([5.0, 5.0, 5.0])))}
    assert len(heights) == 1


def test_many_rounds_are_a_line_without_dots():
    svg = chart(curve([1.0 + i for i in range(31)]))
    assert dots(svg) == []
    assert any(path.get("stroke") for path in svg.iter("path"))


def test_a_site_keeps_its_stroke_and_all_differ():
    strokes = strokes_of([f"site-{i}" for i in range(28)])
    assert len(set(strokes.values())) == 28
    svg = chart(curve([1.0, 2.0], "b"))
    assert STROKES["b"].colour in ElementTree.tostring(svg).decode()
    assert STROKES["a"].colour not in ElementTree.tostring(svg).decode()


def test_the_label_is_escaped():
    svg = line_chart([curve([1.0])], STROKES, '"><script>')
    assert "<script" not in svg
    assert parsed(svg).get("aria-label") == '"><script>'


@given(values=st.lists(st.floats(-1e6, 1e6) | st.floats(1e-6, 1), min_size=1, max_size=8))
def test_every_value_is_inside_the_frame_and_some_tick_is_shown(values):
    svg = chart(curve(values))
    assert all(51.9 <= x <= 348.1 and 9.9 <= y <= 176.1 for x, y in dots(svg))
    assert len(dots(svg)) == len(values)
    assert 1 <= len(labels(svg, "end")) <= 12


@given(rounds=st.integers(1, 500))
def test_round_ticks_are_whole_and_few(rounds):
    svg = chart(Curve("codec", "loss", "a", tuple((r, 1.0 / r) for r in range(1, rounds + 1))))
    ticks = [int(text) for text in labels(svg, "mid")[:-1]]
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 7
