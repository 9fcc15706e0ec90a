"""Nested metrics become rows without losing a number, its interval or its floor."""

import math

from experiments.report.metric_rows import MetricRow, meaning_of, metric_sections, number

METRICS = {
    "study": "hippocampus",
    "reconstruction": {
        "site-a": {"patients": 6, "volumes": 9, "psnr": {"estimate": 27.0, "low": 26.0, "high": 28.0}},
        "site-b": {
            "patients": 3,
            "volumes": 4,
            "psnr": {"estimate": 25.0, "low": 24.0, "high": 26.0},
            "x": True,
        },
    },
    "synthetic": {
        "n": 28,
        "distances": {
            "random_conv": {"mmd": {"estimate": 0.1, "low": 0.0, "high": 0.2}, "mmd_floor": -0.002}
        },
        "pairwise_ms_ssim": {"synthetic": 0.5, "real": 0.4},
        "texture": {"contrast": 0.7},
    },
    "empty": {"text": "no number", "list": [1, 2]},
}


def test_every_number_becomes_a_row_under_its_place():
    reconstruction, synthetic = metric_sections(METRICS)
    assert reconstruction.rows == (
        MetricRow("psnr", "site-a", 27.0, 26.0, 28.0),
        MetricRow("psnr", "site-b", 25.0, 24.0, 26.0),
    )
    assert synthetic.rows == (
        MetricRow("mmd", "untrained network", 0.1, 0.0, 0.2, floor=-0.002),
        MetricRow("pairwise_ms_ssim", "", 0.5, floor=0.4),
        MetricRow("contrast", "", 0.7),
    )


def test_counts_say_what_the_numbers_rest_on():
    reconstruction, synthetic = metric_sections(METRICS)
    assert reconstruction.counted == ("site-a: 6 patients, 9 volumes", "site-b: 3 patients, 4 volumes")
    assert synthetic.counted == ("28 volumes a set",)


def test_rows_of_one_metric_stand_together():
    metrics = {"r": {site: {"psnr": 1.0, "ms_ssim": 0.5} for site in "abc"}}
    assert [row.metric for row in metric_sections(metrics)[0].rows] == ["psnr"] * 3 + ["ms_ssim"] * 3


def test_a_floor_may_have_an_interval_of_its_own():
    metrics = {"s": {"mmd": 0.3, "mmd_floor": {"estimate": 0.01, "low": 0.0, "high": 0.02}}}
    assert metric_sections(metrics)[0].rows == (MetricRow("mmd", "", 0.3, floor=0.01),)


def test_numbers_are_rounded_and_a_missing_one_is_a_dash():
    psnr = meaning_of("psnr")
    assert number(27.456, psnr) == "27.46"
    assert number(-0.001, meaning_of("mmd")) == "−0.0010"
    assert number(math.nan, psnr) == number(math.inf, psnr) == number(None, psnr) == "–"


def test_an_unknown_metric_is_called_by_its_name():
    assert meaning_of("surface_to_volume").title == "surface to volume"
