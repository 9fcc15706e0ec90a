"""The comparison as a picture: what each epsilon gains over the public model alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figure_file import write_figure
from experiments.privacy_utility.settings import from_least_noise

if TYPE_CHECKING:  # half a second that most commands never need
    from matplotlib.axes import Axes

COLOURS = {"inf": "#5b6472", "8": "#0072b2", "3": "#e69f00", "1": "#d55e00"}


def plot_privacy_utility(results: Mapping[str, Any], path: Path) -> None:
    """Write one panel per primary metric and data set, as a PNG."""
    from matplotlib.figure import Figure

    metrics: Sequence[str] = results["primary_metrics"]
    mri = results.get("hippocampus_from_phantoms", results["hippocampus"])
    figure = Figure(figsize=(9, 3.4 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 2, squeeze=False)
    for row, metric in zip(panels, metrics, strict=True):
        _phantoms(row[0], results["phantoms"], metric)
        _mri(row[1], mri, metric)
        row[0].set_ylabel(f"{metric}\nminus public model alone")
    panels[0][0].legend(title="epsilon", frameon=False)
    write_figure(figure, path)


def _phantoms(axes: "Axes", by_size: Mapping[str, Any], metric: str) -> None:
    sizes = sorted(by_size, key=int)
    targets = from_least_noise({t for summary in by_size.values() for t in summary["minus_public"]})
    for offset, target in zip(np.linspace(-0.12, 0.12, len(targets)), targets, strict=True):
        there = [i for i, size in enumerate(sizes) if target in by_size[size]["minus_public"]]
        gains = [by_size[sizes[i]]["minus_public"][target][metric] for i in there]
        _points(axes, [i + offset for i in there], gains, target)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="patients per hospital", title="phantoms")
    axes.axhline(0, color="black", linewidth=0.8)


def _mri(axes: "Axes", summary: Mapping[str, Any], metric: str) -> None:
    targets = from_least_noise(summary["minus_public"])
    for position, target in enumerate(targets):
        _points(axes, [position], [summary["minus_public"][target][metric]], target)
    axes.set_xticks(range(len(targets)), targets)
    axes.set(xlabel="epsilon", title="hippocampus MRI")
    axes.axhline(0, color="black", linewidth=0.8)


def _points(axes: "Axes", x: Sequence[float], gains: Sequence[Mapping[str, float]], target: str) -> None:
    middle = [gain["estimate"] for gain in gains]
    bounds = [
        [max(0.0, gain["estimate"] - gain["low"]) for gain in gains],
        [max(0.0, gain["high"] - gain["estimate"]) for gain in gains],
    ]
    finite = np.where(np.isfinite(bounds), bounds, 0.0)
    axes.errorbar(
        x, middle, yerr=finite, fmt="o", color=COLOURS.get(target, "black"), capsize=3, label=target
    )
