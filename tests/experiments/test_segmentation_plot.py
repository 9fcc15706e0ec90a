"""The picture shows every arm of the first number of labels, be it the smallest or not."""

from experiments.segmentation import plot

GAIN = {"paired_t": {"estimate": 0.01, "low": 0.0, "high": 0.02}, "improves": False}


def found(*arms):
    return {
        "arms": dict.fromkeys(["scratch", *arms]),
        "differences": {f"{arm} - scratch": GAIN for arm in arms},
    }


def test_arms_that_other_numbers_of_labels_lack_are_shown(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plot, "write_figure", lambda figure, _: figures.append(figure))
    results = {"labels": {"2": found("noise", "one site", "real"), "1": found("real")}, "weak_labels": False}
    plot.plot_segmentation(results, tmp_path / "gain.png")
    one, two = figures[0].axes  # by number of labels
    assert [label.get_text() for label in one.get_yticklabels()] == ["noise", "one site", "real"]
    assert [len(axes.containers) for axes in (one, two)] == [1, 3]
