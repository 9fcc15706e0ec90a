"""`fedvox`: one console script, one file per role.

Exit codes: 0 done; 1 refused or failed, with the reason and the remedy on standard error; 2 wrong
usage. A traceback is a bug.
"""

import sys

import typer
from rich.markup import escape

from cli.console import err
from cli.demo import demo
from cli.evaluate import evaluate
from cli.experiment import experiment_app
from cli.privacy import privacy_app
from cli.provision import provision_app
from cli.server import server_app
from cli.site import site_app
from cli.study import study_app
from cli.synth import synth
from common.errors import FedvoxError

app = typer.Typer(
    name="fedvox",
    help="Train one generator of synthetic 3D medical images at many hospitals, without moving a patient.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo)
app.add_typer(study_app, name="study")
app.command("synth")(synth)
app.command("evaluate")(evaluate)
app.add_typer(server_app, name="server")
app.add_typer(site_app, name="site")
app.add_typer(privacy_app, name="privacy")
app.add_typer(provision_app, name="provision")
app.add_typer(experiment_app, name="experiment")


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
