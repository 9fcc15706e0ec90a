"""What the figures say: means of every arm, and differences between arms with their intervals.

The measure of a patient is the mean over classes. In a primary plan one comparison is fixed beforehand:
synthetic volumes of the federation against scratch, at the plan's first number of labels. All others are
secondary: one of them improves only if its p-value, after Holm's correction for all of them, is small too.
Arms that were not run yet count in that correction, so what improves without them improves with them. In a
descriptive plan nothing improves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from common.errors import MetricError
from common.federation.seeds import seeded_generator
from experiments.segmentation.difference import Difference, Differences, difference_of
from experiments.segmentation.holm import holm
from experiments.segmentation.names import FEDERATED, SCRATCH
from experiments.segmentation.plan import SegmentationPlan
from experiments.segmentation.scores import DICE

SIGNIFICANT = 0.05
Figures = Mapping[str, Any]
Pair = tuple[str, str]


def summary_of(plan: SegmentationPlan, figures: Sequence[Figures]) -> dict[str, Any]:
    """Return means and comparisons for every number of labels that any arm was fine-tuned with.

    Args:
        plan: What is to be run.
        figures: Of its fine-tunings, so far: of an arm all or none.
    """
    known = {one["arm"] for one in figures}
    arms = {num: [arm.name for arm in plan.arms_at(num) if arm.name in known] for num in plan.labels}
    planned = {num: _pairs_at(plan, [arm.name for arm in plan.arms_at(num)]) for num in plan.labels}
    found = {
        num: {pair: compared(plan, figures, num, *pair) for pair in pairs if known.issuperset(pair)}
        for num, pairs in planned.items()
        if arms[num]
    }
    primary = _name(plan.labels[0], (FEDERATED, SCRATCH)) if plan.standing == "primary" else None
    p_values = {
        _name(num, pair): difference.p_value
        for num, differences in found.items()
        for pair, difference in differences.items()
    }
    secondary = {name: value for name, value in p_values.items() if name != primary}
    family = {_name(num, pair) for num, pairs in planned.items() for pair in pairs} - {primary}
    adjusted = holm(secondary, planned=len(family))
    return {
        str(num): {
            "arms": {arm: reached(plan, figures, num, arm) for arm in arms[num]},
            "differences": {
                f"{pair[0]} - {pair[1]}": _as_json(difference, plan, adjusted.get(_name(num, pair)))
                for pair, difference in differences.items()
            },
        }
        for num, differences in found.items()
    }


def _pairs_at(plan: SegmentationPlan, arms: Sequence[str]) -> list[Pair]:
    """Return the comparisons of some of a plan's arms.

    An arm that was taught with more labels than scratch has is not compared with it: it answers another
    question (see `experiments.segmentation.teaching`).
    """
    taught_more = {arm.name for arm in plan.arms if arm.teacher in ("synthetic", "real")}
    pairs = [pair for pair in pairs_of(arms) if not set(pair) & taught_more]
    return [*pairs, *(pair for pair in plan.also if set(pair) <= set(arms))]


def _name(num_labels: int, pair: Pair) -> str:
    return f"{num_labels}: {pair[0]} - {pair[1]}"


def pairs_of(arms: Sequence[str]) -> list[Pair]:
    """Return the comparisons: every arm against scratch, and the federation's volumes against all others."""
    against_scratch = [(arm, SCRATCH) for arm in arms if arm != SCRATCH and SCRATCH in arms]
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
    seeds = range(plan.seeds_at(num_labels))
    missing = sorted(set(seeds) - by_seed.keys())
    if missing:
        raise MetricError(
            f"arm {arm} has no fine-tuning of seed {missing[0]}", "run the experiment to its end"
        )
    rows: list[list[torch.Tensor]] = [[] for _ in range(plan.pretraining_seeds)]
    for seed in seeds:
        dice = torch.tensor(by_seed[seed]["scores"][DICE], dtype=torch.float64)
        rows[plan.pretraining_of(seed)[0]].append(dice.nanmean(dim=1))
    return torch.stack([torch.stack(row) for row in rows])


def reached(plan: SegmentationPlan, figures: Sequence[Figures], num_labels: int, arm: str) -> dict[str, Any]:
    """Return what an arm reaches.

    Returns:
        ``label_maps`` that it learned from; the mean ``dice`` of a patient and its ``deviation`` between
        patients; ``not_found``, the share of classes of which nothing was found; each measure's ``means``
        over seeds and patients, by class.
    """
    chosen = [f for f in figures if f["arm"] == arm and f["labels"] == num_labels]
    scores = {name: torch.tensor([f["scores"][name] for f in chosen]) for name in chosen[0]["scores"]}
    of_patients = table_of(plan, figures, num_labels, arm).mean(dim=(0, 1))
    known = ~scores[DICE].isnan()
    return {
        "label_maps": chosen[0]["label_maps"],
        "dice": float(of_patients.mean()),
        "deviation": float(of_patients.std()),
        "not_found": float((scores[DICE][known] == 0).float().mean()),
        "means": {name: values.nanmean(dim=(0, 1)).tolist() for name, values in scores.items()},
    }


def by_site(plan: SegmentationPlan, figures: Sequence[Figures], sites: Sequence[str]) -> dict[str, Any]:
    """Return each site's test patients and every arm's mean Dice on them, at the first number of labels.

    Args:
        plan: What was run.
        figures: Of its fine-tunings.
        sites: Of each test patient, in the order of the figures' scores.
    """
    dice = {arm.name: table_of(plan, figures, plan.labels[0], arm.name).mean(dim=(0, 1)) for arm in plan.arms}
    found = {}
    for site in dict.fromkeys(sites):
        own = torch.tensor([one == site for one in sites])
        found[site] = {
            "patients": int(own.sum()),
            "dice": {arm: float(values[own].mean()) for arm, values in dice.items()},
        }
    return found


def _as_json(difference: Difference, plan: SegmentationPlan, holm_p_value: float | None) -> dict[str, Any]:
    """Return a difference with what may be said of it; ``holm_p_value`` is None for the primary one."""
    significant = holm_p_value is None or holm_p_value < SIGNIFICANT
    return {
        "estimate": difference.estimate,
        "paired_t": asdict(difference.paired_t),
        "bootstrap_t": asdict(difference.bootstrap_t),
        "p_value": difference.p_value,
        "holm_p_value": holm_p_value,
        "improves": plan.standing != "descriptive" and significant and difference.above_zero,
    }
