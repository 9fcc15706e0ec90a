"""The results as tables: for docs/results.md, for a paper, for the demo's report.

The word "improves" stands only where both intervals of a difference lie above zero, and, for a secondary one,
its p-value is small after Holm's correction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.markdown import interval_text, markdown_table
from experiments.report.words import plural
from experiments.segmentation.names import REAL
from experiments.segmentation.scores import DICE, HAUSDORFF, SURFACE
from experiments.tables import Table, latex_table

Results = Mapping[str, Any]
_NETWORKS = {"segresnet": "SegResNet", "swin_unetr": "Swin UNETR"}


def segmentation_text(results: Results) -> str:
    """Return everything as Markdown, under the sentences that say what it is.

    Args:
        results: What `compare_arms` found.
    """
    blocks = [f"`{results['command']}`: {setting(results)}", *limits(results)]
    for table in segmentation_tables(results):
        blocks += [f"**{table.title}**", markdown_table(table.columns, table.rows)]
    return "\n\n".join(blocks)


def segmentation_latex(results: Results) -> str:
    """Return every table as LaTeX, its caption with what has to be known of it."""
    said = " ".join([setting(results), *limits(results)])
    return "\n".join(latex_table(table, f"{table.title}. {said}") for table in segmentation_tables(results))


def segmentation_tables(results: Results) -> list[Table]:
    """Return what each arm reaches, and their differences, for every number of labels.

    Before all comes what was asked beforehand, if anything was; after those of the first number, what each
    arm reaches at each site, if there are several.
    """
    tables = _questions(results["questions"])
    for num, found in results["labels"].items():
        weak = ", weak labels" if results["weak_labels"] else ""
        title = f"{plural(int(num), 'labelled patient')}{weak}"
        tables.append(_reached(title, results, found["arms"]))
        if found["differences"]:
            tables.append(_differences(f"{title}: differences", results["standing"], found["differences"]))
        if num == next(iter(results["labels"])) and len(results["sites"]) > 1:
            tables.append(_sites(f"{title}: by site", results))
    return tables


def setting(results: Results) -> str:
    """Return what was run, in a sentence."""
    seeds, steps, arms = results["seeds"], results["steps"], results["arms"].values()
    learned = any(arm["volumes"] for arm in arms)
    before = f"pretrained for {steps['pretraining']} steps, " if learned else ""
    fewer = seeds["fine_tuning_of_others"]
    others = f" ({fewer} with other numbers of labelled patients)" if fewer else ""
    origins = f"{seeds['pretraining']} pretraining seeds and {plural(seeds['sampling'], 'set')} of volumes"
    start = f", from {origins}" if learned else ""
    return (
        f"{_NETWORKS[results['network']['kind']]}, {before}fine-tuned for {steps['fine_tuning']} steps; "
        f"{seeds['fine_tuning']} fine-tunings of every arm{others}{start}; {results['test_patients']} "
        "test patients, whom no network here learned from. Dice is the mean over classes of a patient, with "
        "its standard deviation between patients."
    )


def limits(results: Results) -> list[str]:
    """Return what a reader has to know before believing a number."""
    found = []
    if results["standing"] == "descriptive":
        found.append(
            "Descriptive: few seeds, no comparison that was fixed beforehand. It shows how things look and "
            "proves nothing."
        )
    if results["weak_labels"]:
        found.append(
            "The labels are weak: computed, not drawn by an expert; this shows that the code runs on such "
            "data, and nothing about how well anybody segments."
        )
    generators = {name: arm["generator"] for name, arm in results["arms"].items() if arm["generator"]}
    if generators:
        [only, *others] = generators
        which = "Every generator" if others else f"The generator of {only}"
        found.append(
            f"{which} was trained once, and intervals hold for what was trained and the sets of volumes it "
            "made: another training of the same would give others."
        )
    found.append(
        f"The few labelled patients are drawn from the same {results['labelled_patients']} every time, and "
        "intervals hold for these."
    )
    real = results["arms"].get(REAL)
    if real and real["volumes"] == results["real_volumes"] and results["seeds"]["sampling"] > 1:
        found.append(
            f"There are {results['real_volumes']} real volumes: the sets of the arm {REAL} are the same "
            "volumes in another order."
        )
    found += [
        f"The generator of {name} promises epsilon {made['privacy']['epsilon']:g} at delta "
        f"{made['privacy']['delta']:g} to patients of {', '.join(made['sites'])}; it starts from a "
        "model that learned from others without such a promise."
        for name, made in generators.items()
        if made["privacy"]
    ]
    if results["missing_arms"]:
        found.append(
            f"Missing, having no generator here or not being asked for: {', '.join(results['missing_arms'])}."
        )
        if results["standing"] != "descriptive":
            found.append("Holm's correction counts what is missing as if it had shown nothing.")
    return found


def _questions(questions: Sequence[Mapping[str, str]]) -> list[Table]:
    rows = [[one["question"], one["answer"]] for one in questions]
    return [Table("Asked beforehand: Dice", ["both 95 % intervals of", "answer"], rows)] if rows else []


def _reached(title: str, results: Results, arms: Mapping[str, Any]) -> Table:
    classes = results["classes"]
    several = classes if len(classes) > 1 else []
    distances = [name for name in (HAUSDORFF, SURFACE) if name in next(iter(arms.values()))["means"]]
    rows = [
        [
            name,
            str(results["arms"][name]["volumes"] or ""),
            str(arm["label_maps"]),
            f"{arm['dice']:.3f} ± {arm['deviation']:.3f}",
            *(f"{value:.3f}" for value, _ in zip(arm["means"][DICE], several, strict=False)),
            *(f"{sum(arm['means'][each]) / len(classes):.2f}" for each in distances),
            f"{arm['not_found']:.1%}",
        ]
        for name, arm in arms.items()
    ]
    dice = "Dice" if several else f"Dice {classes[0]}"
    columns = ["arm", "volumes", "label maps", dice, *several, *distances, "not found"]
    return Table(title, columns, rows)


def _sites(title: str, results: Results) -> Table:
    sites = results["sites"]
    columns = [f"Dice at {site} ({plural(found['patients'], 'patient')})" for site, found in sites.items()]
    rows = [[arm, *(f"{found['dice'][arm]:.3f}" for found in sites.values())] for arm in results["arms"]]
    return Table(title, ["arm", *columns], rows)


def _differences(title: str, standing: str, differences: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            interval_text(found["paired_t"], 3, signed=True),
            interval_text(found["bootstrap_t"], 3, signed=True),
            *([] if standing == "descriptive" else _judged(found)),
        ]
        for name, found in differences.items()
    ]
    columns = [
        "Dice of",
        "paired t, these patients",
        "bootstrap t, such patients",
        *([] if standing == "descriptive" else ["p (Holm)", "improves"]),
    ]
    return Table(title, columns, rows)


def _judged(found: Mapping[str, Any]) -> list[str]:
    primary = found["holm_p_value"] is None
    p_value = f"{found['p_value']:.3f} (primary)" if primary else f"{found['holm_p_value']:.3f}"
    return [p_value, "improves" if found["improves"] else ""]
