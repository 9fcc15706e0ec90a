"""The results as a picture: what every arm gains on a network from scratch, by number of labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figure_file import write_figure
from experiments.report.words import plural
from experiments.segmentation.names import SCRATCH


def plot_segmentation(results: Mapping[str, Any], path: Path) -> None:
    """Write each arm's gain in Dice with its 95 % interval over pretraining seeds, as a PNG.

    Nothing is written as long as no arm can be compared with scratch.
    """
    from matplotlib.figure import Figure  # half a second that most commands never need

    labels = {num: results["labels"][num] for num in sorted(results["labels"], key=int)}
    first = next(iter(results["labels"].values()))  # the number that all arms have
    arms = [arm for arm in first["arms"] if f"{arm} - {SCRATCH}" in first["differences"]]
    if not arms:
        return
    figure = Figure(figsize=(1.5 + 2.6 * len(labels), 1.4 + 0.36 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True, sharex=True)[0]
    for axes, (num, found) in zip(panels, labels.items(), strict=True):
        for height, arm in enumerate(arms):
            gain = found["differences"].get(f"{arm} - {SCRATCH}")
            if gain is None:  # not fine-tuned with this number of labels
                continue
            interval = gain["paired_t"]
            middle = interval["estimate"]
            reach = np.array([[middle - interval["low"]], [interval["high"] - middle]])
            colour = "#0072b2" if gain["improves"] else "#5b6472"
            axes.errorbar([middle], [height], xerr=reach, fmt="o", color=colour, capsize=3)
        axes.axvline(0, color="black", linewidth=0.8)
        weak = ", weak labels" if results["weak_labels"] else ""
        axes.set_title(f"{plural(int(num), 'labelled patient')}{weak}")
        axes.set_xlabel("Dice minus scratch")
        axes.grid(visible=True, axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    write_figure(figure, path)
