"""`fedvox evaluate`: a run's codec and synthetic volumes against any folder of real ones."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import out, print_json, table
from experiments.evaluate_run import evaluate_run


def evaluate(
    run: Annotated[Path, typer.Option("--run", help="Folder of a run.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of real volumes, best of unseen patients.")],
    synthetic: Annotated[
        Path | None, typer.Option("--synthetic", help="Folder of synthetic volumes to judge.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option("--patients", help="CSV with columns file, patient (and site, part).")
    ] = None,
    part: Annotated[str | None, typer.Option("--part", help="Only rows of this part of that CSV.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only rows of this site of that CSV.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure reconstruction and synthetic volumes on patients of your choice.

    Example: [bold]fedvox evaluate --run runs/demo --data unseen --synthetic runs/demo/synthetic --json[/]
    """
    result = evaluate_run(run, data, synthetic, patients=patients, part=part, site=site, device=device)
    if json:
        print_json(result)
        return
    rows = [[name, value] for name, value in _flat(result)]
    out.print(table(f"{run} on {data}", ["metric", "value"], rows))


def _flat(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested results as dotted names and short numbers; an interval becomes one row."""
    if isinstance(value, dict):
        if value.keys() == {"estimate", "low", "high"}:
            return [(prefix, f"{value['estimate']:.4f}  [{value['low']:.4f}, {value['high']:.4f}]")]
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, f"{value:.4f}" if isinstance(value, float) else str(value))]
