"""`fedvox`: one console script, one file per role.

Exit codes: 0 done; 1 refused or failed, with the reason and the remedy on standard error; 2 wrong
usage. A traceback is a bug.
"""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from cli.console import err, out
from cli.lazy import Lazy, lazy_group
from common.errors import FedvoxError
from common.release import release

COMMANDS = {
    "demo": Lazy(
        "cli.demo:demo",
        "Three phantom hospitals train one generator; you get volumes, metrics, a segmentation and a report.",
    ),
    "study": Lazy("cli.study:study_app", "Write, check, run, resume and watch a study."),
    "synth": Lazy(
        "cli.synth:synth",
        "Make synthetic volumes: NIfTI files, a manifest that says how they were made, and a montage.",
    ),
    "evaluate": Lazy(
        "cli.evaluate:evaluate", "Measure reconstruction and synthetic volumes on patients of your choice."
    ),
    "server": Lazy("cli.server:server_app", "The coordinator's server."),
    "site": Lazy("cli.site:site_app", "A hospital's own machine."),
    "privacy": Lazy("cli.privacy:privacy_app", "Plan patient-level differential privacy, and audit it."),
    "provision": Lazy(
        "cli.provision:provision_app",
        "Start-up kits for the sites of a federation, enrolment, certificates.",
    ),
    "experiment": Lazy("cli.experiment:experiment_app", "Run a comparison."),
}

app = typer.Typer(
    name="fedvox",
    cls=lazy_group(COMMANDS),
    help="Train one generator of synthetic 3D medical images at many hospitals, without moving a patient.",
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # click suggests them already
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_release(wanted: bool) -> None:
    if wanted:
        out.print(f"fedvox {release()}", highlight=False)
        raise typer.Exit


@app.callback()
def fedvox(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which release this is.", callback=_say_release, is_eager=True),
    ] = False,
) -> None:
    """Nothing is common to all commands but their list."""


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except FedvoxError as error:
        err.print("[bold red]error:[/]", escape(str(error)), soft_wrap=True, highlight=False, markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("[bold]stopped[/]; start the same command again to go on from the last finished round")
        sys.exit(1)


if __name__ == "__main__":
    run()
