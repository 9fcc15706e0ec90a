"""The comparison as Markdown: what docs/results.md shows."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.markdown import interval_text, markdown_table
from experiments.privacy_utility.settings import INFINITE, PUBLIC_ONLY, from_least_noise

Results = Mapping[str, Any]
DIGITS = 4


def privacy_utility_text(results: Results) -> str:
    """Return all tables, each with the sentence that says what it is.

    Args:
        results: What `compare_privacy` returned.
    """
    first, second = results["primary_metrics"]
    at = results["overtakes_at"]
    verdict = (
        f"Epsilon 8 is better than the public model alone, in both metrics, from {at} patients a hospital on."
        if at is not None
        else "Epsilon 8 is better than the public model alone at none of these sizes."
    )
    blocks = [
        f"`{results['command']}`. Two metrics were named beforehand, smaller is better in both: the {first} "
        f"on unseen patients, and {second} between synthetic volumes and unseen patients. Every arm starts "
        f"from the same public model and makes {results['rounds']} rounds of one private step at each of "
        f"three sites, delta {results['delta']:g}. **Epsilon is that of one run**: it covers neither the "
        "choice of settings (made on phantoms and public subjects) nor these measurements, which are not "
        "private. `inf` is the same code with a thousandth of the noise.",
        "Which parameters to train, on phantoms that no other job sees (100 patients a hospital, epsilon 8, "
        f"one run each): {results['chosen']} was taken, by the {first}.",
        _tried(results),
        f"Phantom hospitals, minus the public model [95 %, Student over seeds]. {verdict}",
        _phantoms(results),
        _mri_words(results["hippocampus"], "twelve public subjects"),
        _mri(results["hippocampus"]),
    ]
    if "hippocampus_from_phantoms" in results:
        again = results["hippocampus_from_phantoms"]
        blocks += [_mri_words(again, "phantoms alone"), _mri(again)]
    return "\n\n".join(blocks)


def _tried(results: Results) -> str:
    tried = results["tried_on_phantoms"]
    metrics = list(next(iter(tried.values()))["metrics"])
    rows = [
        [
            name,
            str(one["trained_parameters"]),
            *(f"{one['metrics'][metric]:.{DIGITS}f}" for metric in metrics),
        ]
        for name, one in sorted(tried.items(), key=lambda item: (item[1]["trained_parameters"], item[0]))
    ]
    return markdown_table(["tried", "parameters", *metrics], rows)


def _phantoms(results: Results) -> str:
    metrics = results["primary_metrics"]
    rows = [
        [size, target, _noise(summary, target), *(_change(gain[metric]) for metric in metrics)]
        for size, summary in sorted(results["phantoms"].items(), key=lambda item: int(item[0]))
        for target, gain in _gains(summary)
    ]
    return markdown_table(["patients a hospital", "epsilon", "sigma", *metrics], rows)


def _mri_words(summary: Mapping[str, Any], public: str) -> str:
    verdict = (
        "Epsilon infinity gains on it, so noise has something to spoil."
        if summary["informative"]
        else "**Not informative**: even without noise, training on the sites gains nothing over it that the "
        "interval tells from zero."
    )
    return (
        f"Hippocampus, 90 subjects in three sites, {summary['units']} folds; the public model learnt from "
        f"{public}. {verdict} Minus the public model [95 %, Student over folds, seeds of a fold averaged]."
    )


def _mri(summary: Mapping[str, Any]) -> str:
    metrics = list(summary["means"][PUBLIC_ONLY])
    first = [PUBLIC_ONLY, "", *(f"{summary['means'][PUBLIC_ONLY][metric]:.{DIGITS}f}" for metric in metrics)]
    rows = [
        [target, _noise(summary, target), *(_change(gain[metric]) for metric in metrics)]
        for target, gain in _gains(summary)
    ]
    floor = ["real against real", "", *(_plain(summary["floor"].get(metric)) for metric in metrics)]
    return markdown_table(["epsilon", "sigma", *metrics], [first, *rows, floor])


def _gains(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(target, summary["minus_public"][target]) for target in from_least_noise(summary["minus_public"])]


def _noise(summary: Mapping[str, Any], target: str) -> str:
    return "" if target == INFINITE else f"{summary['noise_multiplier'][target]:.2f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}f}"


def _change(gain: Mapping[str, float]) -> str:
    if math.isinf(gain["high"]):
        return f"{gain['estimate']:+.{DIGITS}f}"
    return interval_text(gain, DIGITS, signed=True)
