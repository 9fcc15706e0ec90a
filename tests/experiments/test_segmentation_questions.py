"""What was asked beforehand is answered from both intervals; the third question only after both others."""

import pytest
from segmentation_place import PLAN

from common.frozen import parse
from experiments.segmentation.plan import SegmentationPlan
from experiments.segmentation.questions import answers_of

PRIMARY = parse(SegmentationPlan, PLAN, "plan")
NAMES = ("federated - scratch", "real - scratch", "federated - real")


def answers(plan=PRIMARY, **lows):
    """Answer from the lower ends of both intervals of each difference, by its initials."""
    differences = {
        name: {"paired_t": {"low": lows[key][0]}, "bootstrap_t": {"low": lows[key][1]}}
        for key, name in zip(("fs", "rs", "fr"), NAMES, strict=True)
        if key in lows
    }
    return [one["answer"] for one in answers_of(plan, {"1": {"differences": differences}, "2": {}})]


@pytest.mark.parametrize(
    ("lows", "found"),
    [
        ({"fs": (0.01, 0.001), "rs": (0.01, 0.02), "fr": (-0.009, -0.002)}, ["yes", "yes", "yes"]),
        ({"fs": (0.01, 0.001), "rs": (0.01, 0.02), "fr": (-0.011, 0.002)}, ["yes", "yes", "no"]),
        ({"fs": (0.01, 0.001), "rs": (0.01, 0.02), "fr": (0.002, -0.01)}, ["yes", "yes", "no"]),
        ({"fs": (0.01, -0.001), "rs": (0.01, 0.02), "fr": (-0.009, 0.002)}, ["no", "yes", "void"]),
        ({"fs": (-0.01, 0.01), "fr": (0.002, 0.01)}, ["no", "not measured", "void"]),
        ({"fs": (0.01, 0.02), "rs": (0.0, 0.02), "fr": (0.002, 0.001)}, ["yes", "no", "void"]),
        ({"fs": (0.01, 0.02), "fr": (0.002, 0.001)}, ["yes", "not measured", "not measured"]),
        ({}, ["not measured"] * 3),
    ],
)
def test_answers_are_read_from_both_intervals_in_order(lows, found):
    assert answers(**lows) == found


def test_other_plans_ask_nothing_beforehand():
    other = PRIMARY.model_copy(update={"standing": "secondary"})
    assert answers(other, fs=(0.1, 0.1), rs=(0.1, 0.1), fr=(0.1, 0.1)) == []
