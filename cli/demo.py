"""`fedvox demo`: the whole story on one machine, without any download."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.console import err, out, print_json
from cli.live import live_view
from experiments.demo import Demo
from experiments.run_study import start_run


def demo(
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
    tiny: Annotated[bool, typer.Option("--tiny", help="A minute's version, to see that all works.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics.")] = False,
) -> None:
    """Three phantom hospitals train one generator; you get volumes, metrics, a segmentation and a report.

    Example: [bold]fedvox demo[/]
    """
    started = time.monotonic()

    def say(text: str) -> None:
        if not json:
            err.print(text, highlight=False)

    story = Demo(runs, tiny)
    say("making three phantom hospitals ...")
    prepared = story.open()
    with live_view(prepared.run, prepared.study, enabled=not json):
        start_run(prepared)
    say("pretraining segmentation networks on synthetic volumes, and fine-tuning them on two patients ...")
    segmentation = story.segment(prepared, say)
    say("sampling, measuring and writing the report ...")
    metrics = story.finish(prepared, segmentation)
    if json:
        print_json(metrics)
        return
    minutes = (time.monotonic() - started) / 60
    out.print(f"done in {minutes:.1f} min; look at {prepared.run.path / 'report.html'}", highlight=False)
