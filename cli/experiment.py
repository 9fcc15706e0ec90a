"""`fedvox experiment`: the comparisons behind the numbers in docs/results.md."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import err, out, print_json
from client.site_config import Compute
from common.errors import ConfigError
from experiments.baselines.compare import compare, write_results
from experiments.baselines.table import comparison_text
from experiments.privacy_utility.compare import compare_privacy
from experiments.privacy_utility.jobs import Bench as PrivacyBench
from experiments.privacy_utility.plot import plot_privacy_utility
from experiments.privacy_utility.settings import Settings, smoke_settings
from experiments.privacy_utility.table import privacy_utility_text
from experiments.segmentation.table import segmentation_latex, segmentation_text

if TYPE_CHECKING:
    from experiments.segmentation.arms import Bench as SegmentationBench

experiment_app = typer.Typer(help="Run a comparison.", no_args_is_help=True, rich_markup_mode="rich")

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"
STUDIES = {"hippocampus": "hippocampus-mri", "breast_dce": "breast-dce-mri"}
BASELINES, PRIVACY_UTILITY = "baselines", "privacy-utility"


def baselines_text(results: dict[str, Any]) -> str:
    """Return one study's comparison under its name."""
    return f"## {results['study']}\n\n{comparison_text(results)}"


SEGMENTATION = tuple(sorted(file.stem for file in CONFIGS.glob("segmentation-*.yaml")))

TEXTS = {
    BASELINES: baselines_text,
    PRIVACY_UTILITY: privacy_utility_text,
    **dict.fromkeys(SEGMENTATION, segmentation_text),
}
LATEX = dict.fromkeys(SEGMENTATION, segmentation_latex)

Name = Annotated[str, typer.Argument(help=f"Which comparison: {' or '.join(TEXTS)}.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")]


@experiment_app.command("run")
def run(
    name: Name,
    data: Annotated[Path, typer.Option("--data", help="Folder with hippocampus-mri and breast-dce-mri.")],
    study: Annotated[
        list[str] | None, typer.Option("--study", help="baselines: only this study; repeat it.")
    ] = None,
    runs: Runs = Path("runs"),
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="CPU threads; all but baselines: as many jobs at a time.")
    ] = 2,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="All but baselines: minutes, proving nothing.")
    ] = False,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="segmentation-...: compute only this one; repeat it.")
    ] = None,
    arms_from: Annotated[
        Path | None,
        typer.Option("--arms-from", help="segmentation-...: results of another machine; its arms are taken."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results.")] = False,
) -> None:
    """Run a comparison, or go on with one.

    [bold]baselines[/]: federated against pooled and local-only training, on test patients.
    [bold]privacy-utility[/]: training under differential privacy against a public model alone.

    [bold]segmentation-...[/]: a few labelled patients, after pretraining on synthetic volumes and controls.

    Example: [bold]fedvox experiment run baselines --data /data[/]

    Example: [bold]fedvox experiment run privacy-utility --data /data --smoke[/]
    """
    _known(name)
    if name != BASELINES and study:
        raise ConfigError(f"{name} has no single studies", "leave --study out")
    if name == BASELINES and smoke:
        raise ConfigError(f"{name} has no smoke version", "leave --smoke out")
    if (arm or arms_from is not None) and name not in SEGMENTATION:
        raise ConfigError(f"{name} has no arms to choose", "leave --arm and --arms-from out")
    folder = runs / (f"{name}-smoke" if smoke else name)
    if name == PRIVACY_UTILITY:
        results = _run_privacy_utility(data, folder, threads, smoke)
    elif name in SEGMENTATION:
        bench = _segmentation_bench(name, data, runs, folder, smoke)
        results = {name: _run_segmentation(bench, folder, threads, arms_from, arm or ())}
    else:
        results = _run_baselines(data, study, folder, threads)
    if json:
        print_json(results)
        return
    for found in results.values():
        _print(TEXTS[name](found))
    out.print(f"figures in {folder}", highlight=False)


@experiment_app.command("table")
def show_table(
    name: Name,
    runs: Runs = Path("runs"),
    latex: Annotated[bool, typer.Option("--latex", help="segmentation-...: for a paper.")] = False,
) -> None:
    """Print a finished comparison as Markdown, or as LaTeX.

    Example: [bold]fedvox experiment table baselines[/]
    """
    _known(name)
    if latex and name not in LATEX:
        raise ConfigError(f"{name} has no LaTeX tables", f"they are of {', '.join(LATEX)}")
    files = sorted((runs / name).glob("*.json"))
    if not files:
        raise ConfigError(f"no figures in {runs / name}", f"run fedvox experiment run {name} first")
    for file in files:
        results = json_module.loads(file.read_text(encoding="utf-8"))
        _print((LATEX if latex else TEXTS)[name](results))


@experiment_app.command("export-weights")
def export(
    pretrained: Annotated[
        Path, typer.Argument(help="Folder of one network, below RUNS/NAME/work/*/pretrained.")
    ],
    to: Annotated[Path, typer.Option("--out", help="File to write, such as weights.safetensors.")],
) -> None:
    """Write a pretrained network's weights as a file that plain MONAI loads, and print how.

    Example: [bold]fedvox experiment export-weights FOLDER --out weights.safetensors[/]
    """
    from experiments.segmentation.export import export_weights  # MONAI's networks: seconds

    out.print(export_weights(pretrained, to), markup=False, highlight=False, soft_wrap=True)


def _run_baselines(data: Path, study: list[str] | None, folder: Path, threads: int) -> dict[str, Any]:
    unknown = sorted(set(study or ()) - STUDIES.keys())
    if unknown:
        raise ConfigError(f"no study called {unknown[0]}", f"known: {', '.join(STUDIES)}")
    results = {}
    for one in study or STUDIES:
        results[one] = compare(
            CONFIGS / f"{one}.yaml",
            (data / STUDIES[one]).resolve(),
            folder / one,
            Compute(threads=threads),
            _say,
        )
        write_results(folder / f"{one}.json", results[one])
    return results


def _run_privacy_utility(data: Path, folder: Path, workers: int, smoke: bool) -> dict[str, Any]:
    settings = smoke_settings() if smoke else Settings()
    results = compare_privacy(data, PrivacyBench(folder / "work", settings, workers, _say))
    write_results(folder / f"{PRIVACY_UTILITY}.json", results)
    plot_privacy_utility(results, folder / f"{PRIVACY_UTILITY}.png")
    return {PRIVACY_UTILITY: results}


def _segmentation_bench(name: str, data: Path, runs: Path, folder: Path, smoke: bool) -> "SegmentationBench":
    # Networks, losses and measures of MONAI: seconds that no other command needs.
    import torch

    from experiments.segmentation.arms import Bench
    from experiments.segmentation.plan import load_plan

    plan = load_plan(CONFIGS / f"{name}.yaml")
    bench = Bench.of_files(plan, CONFIGS, data, runs, folder / "work", torch.device("cpu"))
    return bench.smoke() if smoke else bench


def _run_segmentation(
    bench: "SegmentationBench", folder: Path, workers: int, arms_from: Path | None, only: Sequence[str]
) -> dict[str, Any]:
    from experiments.segmentation.compare import compare_arms
    from experiments.segmentation.compared import Compared
    from experiments.segmentation.plot import plot_segmentation

    earlier = None if arms_from is None else Compared.load(arms_from)
    found = compare_arms(bench, workers, _say, earlier, only)
    found.write(folder, bench.plan.name)
    plot_segmentation(found.results, folder / f"{bench.plan.name}.png")
    return found.results


def _say(text: str) -> None:
    err.print(text, highlight=False)


def _print(text: str) -> None:
    out.print(f"{text}\n", markup=False, highlight=False, soft_wrap=True)


def _known(name: str) -> None:
    if name not in TEXTS:
        raise ConfigError(f"no experiment called {name}", f"known: {', '.join(TEXTS)}")
