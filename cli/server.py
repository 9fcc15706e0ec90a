"""`fedvox server`: Flower's server with the safe flags, in front of it nginx."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import err, out
from cli.provision import HOME, Home
from cli.unit_files import UNIT_FILES, write_units
from common.errors import ConfigError, FedvoxError, RunError
from deploy.authority import WARN_DAYS, days_left
from deploy.flower_command import FlowerCommand
from deploy.processes import INTERNAL_PORT, executor, program, proxy, superlink
from deploy.supervisor import keep_running
from deploy.units import server_units
from server.coordinator import Coordinator

server_app = typer.Typer(help="The coordinator's server.", no_args_is_help=True, rich_markup_mode="rich")

UNITS = {"superlink": superlink, "executor": executor, "proxy": proxy}
Port = Annotated[int, typer.Option("--port", help="Loopback port of Flower's server.")]


@server_app.callback()
def server() -> None:
    """Run the coordinator's server."""


@server_app.command("start")
def start(
    unit: Annotated[
        str | None, typer.Argument(help=f"Only this one, for systemd: {', '.join(UNITS)}.")
    ] = None,
    home: Home = HOME,
    port: Port = INTERNAL_PORT,
    no_proxy: Annotated[
        bool, typer.Option("--no-proxy", help="Without nginx: only sites on this very machine can connect.")
    ] = False,
) -> None:
    """Start the server, until it is stopped; restarting one of its units never restarts another.

    Example: [bold]fedvox server start --home coordinator[/]
    """
    coordinator = Coordinator(home)
    if (left := days_left(home / "server.crt")) < WARN_DAYS:
        err.print(f"[yellow]the certificate is good for {left:.0f} days:[/] fedvox provision renew")
    if unit is not None:
        if unit not in UNITS:
            raise ConfigError(f"no unit called {unit}", f"known: {', '.join(UNITS)}")
        UNITS[unit](coordinator, port).become()
    wanted = {name: make for name, make in UNITS.items() if not (no_proxy and name == "proxy")}
    out.print(f"running: {', '.join(wanted)}", highlight=False)
    keep_running(
        {name: make(coordinator, port) for name, make in wanted.items()},
        lambda text: err.print(text, highlight=False),
        _Registrar(coordinator, port),
    )


@server_app.command("units")
def units(
    home: Home = HOME,
    to: Annotated[Path, typer.Option("--out", help="Folder for the unit files.")] = UNIT_FILES,
    runs: Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")] = Path("runs"),
) -> None:
    """Write systemd units for the server's three parts; their user must own the two folders.

    Example: [bold]fedvox server units --out units[/]
    """
    texts = server_units(program("fedvox"), Coordinator(home).folder.resolve(), runs.resolve())
    write_units(to, texts)
    out.print(f"wrote {', '.join(texts)} in {to}", highlight=False)


class _Registrar:
    """Lets sites in as they are enrolled.

    Args:
        coordinator: Knows the sites.
        port: Loopback port of Flower's server.
    """

    def __init__(self, coordinator: Coordinator, port: int) -> None:
        self._coordinator = coordinator
        self._flower = FlowerCommand(coordinator, port)
        self._let_in: list[str] = []
        self._said = ""

    def __call__(self) -> None:
        """Register the sites that are enrolled since, if the server answers."""
        try:
            enrolled = sorted(self._coordinator.keys())
            if enrolled == self._let_in:
                return
            self._flower.admit_sites()
            self._let_in = enrolled
            out.print(f"sites that may connect: {', '.join(enrolled)}", highlight=False)
        except RunError:
            return  # the server is starting: tried again
        except (FedvoxError, OSError) as error:
            if str(error) != self._said:
                err.print(f"[yellow]nobody new is let in:[/] {error}", highlight=False)
            self._said = str(error)
