"""The bound on membership inference as a picture."""

from pathlib import Path

from common.privacy.summary import PrivacySummary
from experiments.figure_file import write_figure

_SMALLEST_RATE = 1e-4


def plot_attack_bounds(summary: PrivacySummary, path: Path) -> None:
    """Write the largest share of members that any test finds, at every rate of false alarms, as a PNG."""
    from matplotlib.figure import Figure  # half a second that most commands never need

    rates, found = summary.bounds.false_positive_rates, summary.bounds.true_positive_rates
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates[1:], found[1:], label=f"epsilon {summary.against_server:.2f}, delta {summary.delta:g}")
    axes.plot(rates[1:], rates[1:], linestyle=":", color="grey", label="guessing")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(_SMALLEST_RATE, 1),
        ylim=(_SMALLEST_RATE, 1),
        xlabel="share of non-members taken for members",
        ylabel="share of members found, at most",
        title="No membership test does better than this line",
    )
    axes.legend(loc="lower right")
    axes.grid(visible=True, alpha=0.3)
    write_figure(figure, path)
