"""The results as Markdown: what docs/results.md shows."""

from collections.abc import Mapping
from typing import Any

from experiments.markdown import interval_text, markdown_table
from experiments.report.words import plural
from experiments.segmentation.scores import DICE, HAUSDORFF, SURFACE

Results = Mapping[str, Any]


def segmentation_text(results: Results) -> str:
    """Return all tables, each under the sentence that says what it is.

    Args:
        results: What `compare_arms` returned.
    """
    seeds, steps = results["seeds"], results["steps"]
    blocks = [
        f"`{results['command']}`: {results['network']['kind']}, pretrained for {steps['pretraining']} steps "
        f"on {results['volumes']} volumes, fine-tuned for {steps['fine_tuning']} steps; "
        f"{seeds['fine_tuning']} fine-tunings of every arm, from {seeds['pretraining']} pretraining seeds "
        f"and {plural(seeds['sampling'], 'set')} of volumes; {results['test_patients']} test patients whom "
        f"nothing saw before.{_weak(results)}"
    ]
    if results["missing_arms"]:
        blocks.append(f"Missing, since their runs are: {', '.join(results['missing_arms'])}.")
    for num, found in results["labels"].items():
        patients = "patient" if num == "1" else "patients"
        blocks += [
            f"**{num} labelled {patients}**{_weak_title(results)}",
            _means(results, found["means"]),
            _differences(found["differences"]),
        ]
    return "\n\n".join(blocks)


def _weak(results: Results) -> str:
    if not results["weak_labels"]:
        return ""
    return (
        " **The labels are weak**: computed, not drawn by an expert; this shows that the code runs on such "
        "data, and nothing about how well anybody segments."
    )


def _weak_title(results: Results) -> str:
    return " (weak labels)" if results["weak_labels"] else ""


def _means(results: Results, means: Mapping[str, Any]) -> str:
    rows = [
        [
            arm,
            *(f"{value:.3f}" for value in scores[DICE]),
            *(f"{sum(scores[name]) / len(scores[name]):.2f}" for name in (HAUSDORFF, SURFACE)),
        ]
        for arm, scores in means.items()
    ]
    return markdown_table(["arm", *(f"Dice {name}" for name in results["classes"]), HAUSDORFF, SURFACE], rows)


def _differences(differences: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            interval_text(found["paired_t"], 3, signed=True),
            interval_text(found["bootstrap_t"], 3, signed=True),
            "primary" if found["holm_p_value"] is None else f"{found['holm_p_value']:.3f}",
            "improves" if found["improves"] else "",
        ]
        for name, found in differences.items()
    ]
    columns = [
        "Dice of",
        "paired t, these patients",
        "bootstrap t, such patients",
        "p (Holm)",
        "both above 0",
    ]
    return markdown_table(columns, rows)
