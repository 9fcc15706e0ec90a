"""What the figures say: paired differences to the public model, with intervals.

A unit is what would be new if the comparison were made again: a seed with its patients for phantoms, a fold
for MRI (its seeds averaged). The interval is Student's over the units' differences, so it holds training
noise and patients alike; folds share training patients, which makes theirs somewhat too narrow.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.privacy_utility.settings import PRIMARY_METRICS, PUBLIC_ONLY

LEVEL = 0.95
Figures = Mapping[str, Any]


def summary_of(figures: Sequence[Figures]) -> dict[str, Any]:
    """Return every arm's means, its differences to public only, and the floors."""
    targets = list(dict.fromkeys(f["target"] for f in figures))
    noisy = [target for target in targets if target != PUBLIC_ONLY]
    names = list(figures[0]["metrics"])
    return {
        "units": len(_units(figures, PUBLIC_ONLY)),
        "means": {target: {n: _mean(_values(figures, target, n)) for n in names} for target in targets},
        "minus_public": {target: gains(figures, target) for target in noisy},
        "floor": {name: _mean([f["floors"][name] for f in figures]) for name in figures[0]["floors"]},
        "noise_multiplier": {
            t: next(f["noise_multiplier"] for f in figures if f["target"] == t) for t in noisy
        },
        "trained_parameters": max(f["trained_parameters"] for f in figures),
    }


def gains(figures: Sequence[Figures], target: str) -> dict[str, dict[str, float]]:
    """Return each metric's mean difference of ``target`` minus public only, with its interval."""
    arm, public = _units(figures, target), _units(figures, PUBLIC_ONLY)
    shared = sorted(arm.keys() & public.keys())
    names = list(figures[0]["metrics"])
    return {
        name: paired_interval([arm[unit][name] - public[unit][name] for unit in shared]) for name in names
    }


def paired_interval(differences: Sequence[float]) -> dict[str, float]:
    """Return mean and Student's interval; without a second difference the interval is all numbers.

    >>> found = paired_interval([1.0, 2.0, 3.0])
    >>> round(found["estimate"], 3), round(found["low"], 3), round(found["high"], 3)
    (2.0, -0.484, 4.484)
    """
    n = len(differences)
    mean = _mean(differences)
    if n < 2:
        return {"estimate": mean, "low": -math.inf, "high": math.inf}
    variance = sum((value - mean) ** 2 for value in differences) / (n - 1)
    from scipy import stats  # half a second that most commands never need

    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * math.sqrt(variance / n)
    return {"estimate": mean, "low": mean - half, "high": mean + half}


def is_better(gain: Mapping[str, Mapping[str, float]]) -> bool:
    """Return whether both primary metrics are below public only, intervals included."""
    return all(gain[name]["high"] < 0 for name in PRIMARY_METRICS)


def is_informative(headroom: Mapping[str, Mapping[str, float]]) -> bool:
    """Return whether epsilon infinity beats public only in a primary metric; else nothing can be lost."""
    return any(headroom[name]["high"] < 0 for name in PRIMARY_METRICS)


def overtakes_at(by_size: Mapping[int, Sequence[Figures]]) -> int | None:
    """Return the smallest size from which on epsilon 8 is better than public only; None if it never is."""
    found = None
    for size in sorted(by_size, reverse=True):
        if not is_better(gains(by_size[size], "8")):
            break
        found = size
    return found


def _units(figures: Sequence[Figures], target: str) -> dict[str, dict[str, float]]:
    """Return the mean metrics of each unit: seeds of one fold are averaged."""
    collected: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for one in figures:
        if one["target"] == target:
            collected[one["unit"]].append(one["metrics"])
    return {
        unit: {name: _mean([m[name] for m in metrics]) for name in metrics[0]}
        for unit, metrics in collected.items()
    }


def _values(figures: Sequence[Figures], target: str, name: str) -> list[float]:
    return [metrics[name] for metrics in _units(figures, target).values()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
