"""`fedvox experiment`: the comparisons behind the numbers in docs/results.md."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.console import err, out, print_json
from client.site_config import Compute
from common.errors import ConfigError
from experiments.baselines.compare import compare, write_results

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
    if name != "baselines":
        raise ConfigError(f"no experiment called {name}", "known: baselines")
    unknown = sorted(set(study or ()) - STUDIES.keys())
    if unknown:
        raise ConfigError(f"no study called {unknown[0]}", f"known: {', '.join(STUDIES)}")
    started = time.monotonic()
    results = {
        one: compare(
            CONFIGS / f"{one}.yaml",
            (data / STUDIES[one]).resolve(),
            runs / "baselines" / one,
            Compute(threads=threads),
            lambda text: err.print(text, highlight=False),
        )
        for one in study or STUDIES
    }
    path = runs / "baselines" / "results.json"
    write_results(results, path, "fedvox experiment run baselines", started)
    if json:
        print_json(results)
    else:
        out.print(f"results in {path}", highlight=False)
