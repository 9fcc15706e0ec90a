"""What was asked before any test patient was looked at, and the answers.

A primary plan asks three things at its first number of labels. Is the federation's volumes' Dice above that
from scratch? Is that of real volumes, without which there was nothing to gain? And do the federation's lose
less than 0.01 of what real ones give? The third is void unless both others are answered with yes: where
real volumes gain less than 0.01, scratch too would be as close. They are read in this order and from both
intervals (decision 15), so no p-value of theirs is corrected.
"""

from collections.abc import Mapping
from typing import Any

from experiments.segmentation.names import FEDERATED, REAL, SCRATCH
from experiments.segmentation.plan import SegmentationPlan

MARGIN = 0.01
YES, NO, VOID, UNKNOWN = "yes", "no", "void", "not measured"


def answers_of(plan: SegmentationPlan, labels: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return each question with its answer; none unless the plan is a primary one.

    Args:
        plan: What was run.
        labels: What `summary_of` found.
    """
    if plan.standing != "primary":
        return []
    differences = labels[str(plan.labels[0])]["differences"]

    def above(first: str, second: str, least: float) -> str:
        found = differences.get(f"{first} - {second}")
        if found is None:
            return UNKNOWN
        return YES if min(found[one]["low"] for one in ("paired_t", "bootstrap_t")) > least else NO

    gain, ceiling = above(FEDERATED, SCRATCH, 0), above(REAL, SCRATCH, 0)
    if NO in (gain, ceiling):
        close = VOID
    else:
        close = UNKNOWN if UNKNOWN in (gain, ceiling) else above(FEDERATED, REAL, -MARGIN)
    answers = {
        f"{FEDERATED} - {SCRATCH} above 0": gain,
        f"{REAL} - {SCRATCH} above 0": ceiling,
        f"{FEDERATED} - {REAL} above -{MARGIN}": close,
    }
    return [{"question": question, "answer": answer} for question, answer in answers.items()]
