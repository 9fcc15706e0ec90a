"""`fedvox experiment`: the comparisons behind the numbers in docs/results.md."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import err, out, print_json
from client.site_config import Compute
from common.errors import ConfigError
from experiments.baselines.compare import compare, write_results
from experiments.baselines.table import comparison_text

experiment_app = typer.Typer(help="Run a comparison.", no_args_is_help=True, rich_markup_mode="rich")

CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"
STUDIES = {"hippocampus": "hippocampus-mri", "breast_dce": "breast-dce-mri"}


@experiment_app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="Which comparison: baselines.")],
    data: Annotated[Path, typer.Option("--data", help="Folder with hippocampus-mri and breast-dce-mri.")],
    study: Annotated[list[str] | None, typer.Option("--study", help="Only this study; repeat it.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print the results.")] = False,
) -> None:
    """Compare federated, pooled and local-only training on test patients; resumable.

    Example: [bold]fedvox experiment run baselines --data /data[/]
    """
    _known(name)
    unknown = sorted(set(study or ()) - STUDIES.keys())
    if unknown:
        raise ConfigError(f"no study called {unknown[0]}", f"known: {', '.join(STUDIES)}")
    results = {}
    for one in study or STUDIES:
        results[one] = compare(
            CONFIGS / f"{one}.yaml",
            (data / STUDIES[one]).resolve(),
            runs / "baselines" / one,
            Compute(threads=threads),
            lambda text: err.print(text, highlight=False),
        )
        write_results(runs / "baselines" / f"{one}.json", results[one])
    if json:
        print_json(results)
        return
    for found in results.values():
        _print(found)
    out.print(f"figures in {runs / 'baselines'}", highlight=False)


@experiment_app.command("table")
def show_table(
    name: Annotated[str, typer.Argument(help="Which comparison: baselines.")],
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
) -> None:
    """Print a finished comparison as Markdown.

    Example: [bold]fedvox experiment table baselines[/]
    """
    _known(name)
    files = sorted((runs / "baselines").glob("*.json"))
    if not files:
        raise ConfigError(f"no figures in {runs / 'baselines'}", "run fedvox experiment run baselines first")
    for file in files:
        _print(json_module.loads(file.read_text(encoding="utf-8")))


def _print(results: dict[str, Any]) -> None:
    text = f"## {results['study']}\n\n{comparison_text(results)}\n"
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _known(name: str) -> None:
    if name != "baselines":
        raise ConfigError(f"no experiment called {name}", "known: baselines")
