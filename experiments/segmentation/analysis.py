"""What the figures say: means of every arm, and differences between arms with their intervals.

The measure of a patient is the mean over classes. One comparison is primary and named beforehand: synthetic
volumes of the federation against scratch, at the plan's first number of labels. All others are secondary, and
their p-values are Holm's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from common.errors import MetricError
from common.federation.seeds import seeded_generator
from experiments.segmentation.difference import Difference, Differences, difference_of
from experiments.segmentation.holm import holm
from experiments.segmentation.plan import SCRATCH, SegmentationPlan
from experiments.segmentation.scores import DICE

FEDERATED, REAL = "federated", "real"
CONTROLS = ("noise", "phantoms")
Figures = Mapping[str, Any]
Pair = tuple[str, str]


def summary_of(plan: SegmentationPlan, figures: Sequence[Figures]) -> dict[str, Any]:
    """Return means and comparisons for every number of labels.

    Args:
        plan: What was run.
        figures: Of its fine-tunings.
    """
    arms = [arm.name for arm in plan.arms if any(f["arm"] == arm.name for f in figures)]
    found = {
        num: {pair: compared(plan, figures, num, *pair) for pair in pairs_of(arms)} for num in plan.labels
    }
    p_values = {
        f"{num}: {first} - {second}": difference.p_value
        for num, differences in found.items()
        for (first, second), difference in differences.items()
        if (num, first, second) != (plan.labels[0], FEDERATED, SCRATCH)
    }
    adjusted = holm(p_values)
    return {
        str(num): {
            "means": {arm: means_of(figures, num, arm) for arm in arms},
            "differences": {
                f"{first} - {second}": _as_json(difference)
                | {"holm_p_value": adjusted.get(f"{num}: {first} - {second}")}
                for (first, second), difference in differences.items()
            },
        }
        for num, differences in found.items()
    }


def pairs_of(arms: Sequence[str]) -> list[Pair]:
    """Return the comparisons: every arm against scratch, and the federation's volumes against all others."""
    against_scratch = [(arm, SCRATCH) for arm in arms if arm != SCRATCH]
    others = [(FEDERATED, arm) for arm in arms if arm not in (FEDERATED, SCRATCH)]
    return against_scratch + (others if FEDERATED in arms else [])


def compared(
    plan: SegmentationPlan, figures: Sequence[Figures], num_labels: int, first: str, second: str
) -> Difference:
    """Return one arm's Dice minus another's."""
    difference = table_of(plan, figures, num_labels, first) - table_of(plan, figures, num_labels, second)
    return difference_of(difference, seeded_generator("bootstrap", plan.name, num_labels, first, second))


def table_of(plan: SegmentationPlan, figures: Sequence[Figures], num_labels: int, arm: str) -> Differences:
    """Return the Dice of an arm by pretraining seed, fine-tuning seed within it, and patient.

    Raises:
        MetricError: A fine-tuning is missing.
    """
    by_seed = {f["seed"]: f for f in figures if f["arm"] == arm and f["labels"] == num_labels}
    missing = sorted(set(range(plan.seeds)) - by_seed.keys())
    if missing:
        raise MetricError(
            f"arm {arm} has no fine-tuning of seed {missing[0]}", "run the experiment to its end"
        )
    rows: list[list[torch.Tensor]] = [[] for _ in range(plan.pretraining_seeds)]
    for seed in range(plan.seeds):
        dice = torch.tensor(by_seed[seed]["scores"][DICE], dtype=torch.float64)
        rows[plan.pretraining_of(seed)[0]].append(dice.nanmean(dim=1))
    return torch.stack([torch.stack(row) for row in rows])


def means_of(figures: Sequence[Figures], num_labels: int, arm: str) -> dict[str, list[float]]:
    """Return each measure's mean over seeds and patients, by class."""
    chosen = [f["scores"] for f in figures if f["arm"] == arm and f["labels"] == num_labels]
    return {
        name: torch.tensor([scores[name] for scores in chosen]).nanmean(dim=(0, 1)).tolist()
        for name in chosen[0]
    }


def _as_json(difference: Difference) -> dict[str, Any]:
    return {
        "estimate": difference.estimate,
        "paired_t": asdict(difference.paired_t),
        "bootstrap_t": asdict(difference.bootstrap_t),
        "p_value": difference.p_value,
        "improves": difference.improves,
    }
