"""`fedvox provision`: the coordinator makes start-up kits, takes enrolments, renews, revokes."""

import enum
from pathlib import Path
from typing import Annotated

import typer
from click import Command, Context

from cli.console import err, out, table
from common.errors import RunError
from common.kit import write_kit
from common.study import load_study
from deploy.authority import WARN_DAYS, Authority, days_left
from deploy.flower_command import FlowerCommand
from deploy.processes import INTERNAL_PORT
from deploy.runbook import kit_texts
from server.coordinator import Coordinator

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder: keys, certificates, sites.")]
HOME = Path("coordinator")


class _KitsByDefault(typer.core.TyperGroup):
    """`fedvox provision study.yaml` is `fedvox provision kits study.yaml`."""

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that the first word names, or that which makes kits."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["kits", *args]
        found: tuple[str | None, Command | None, list[str]] = super().resolve_command(ctx, args)
        return found


provision_app = typer.Typer(
    help="Start-up kits for the sites of a federation, enrolment, certificates.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    cls=_KitsByDefault,
)


@provision_app.command("kits")
def kits(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")],
    address: Annotated[str, typer.Option("--address", help="Host and port that sites connect to.")],
    site: Annotated[list[str] | None, typer.Option("--site", help="Only for this site; repeat it.")] = None,
    to: Annotated[Path, typer.Option("--out", help="Where to write the kits.")] = Path("kits"),
    home: Home = HOME,
) -> None:
    """Make a start-up kit for every site, and the coordinator's keys and certificates if there are none.

    Example: [bold]fedvox provision study.yaml --address fed.example.org:443[/]
    """
    study = load_study(study_file)
    if not Coordinator.is_complete(home):
        Coordinator.create(home, study_file.read_text(encoding="utf-8"), address)
    coordinator = Coordinator(home)
    if not (home / "ca.key").is_file():  # also after a call that was cut short
        Authority.create(home, study.name)
    if not (home / "server.crt").is_file():
        Authority(home).issue(_host(coordinator))
    to.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in site or study.federation.sites:
        kit = coordinator.invite(name, Authority(home).pem)
        rows.append([f"{name}.kit", write_kit(to / f"{name}.kit", kit, kit_texts(kit))])
    out.print(table(f"kits in {to}", ["kit", "fingerprint: tell it by telephone, not by mail"], rows))
    out.print(f"the study's key, whose loss ends the study, is in {home}: back it up", highlight=False)


@provision_app.command("enrol")
def enrol(
    files: Annotated[list[Path], typer.Argument(metavar="SITE.enrol...", help="What the sites sent back.")],
    home: Home = HOME,
) -> None:
    """Take sites' public keys; compare the fingerprints with what the sites read to you.

    Example: [bold]fedvox provision enrol north.enrol south.enrol[/]
    """
    coordinator = Coordinator(home)
    coordinator.enrol(files)
    _show(coordinator)


@provision_app.command("show")
def show(home: Home = HOME) -> None:
    """Say which sites are invited, enrolled or revoked, and how long the certificate is good.

    Example: [bold]fedvox provision show[/]
    """
    _show(Coordinator(home))


@provision_app.command("renew")
def renew(home: Home = HOME) -> None:
    """Replace the server's certificate by a new one of 90 days, and restart the server; sites notice nothing.

    Example: [bold]fedvox provision renew[/]
    """
    coordinator = Coordinator(home)
    Authority(home).issue(_host(coordinator))
    out.print(f"good for {days_left(home / 'server.crt'):.0f} days; restart superlink and proxy")


class Step(enum.StrEnum):
    """Of a change of authority."""

    PREPARE = "prepare"
    SWITCH = "switch"
    FORGET = "forget"


@provision_app.command("authority")
def authority(
    step: Annotated[Step, typer.Argument(help="Which step of the change.")], home: Home = HOME
) -> None:
    """Let another authority sign the server's certificates, before the old one ends.

    First [bold]prepare[/], and send the notice to all sites, who take it by [bold]fedvox site trust[/].
    When all have, [bold]switch[/], and restart the server. Later [bold]forget[/] the old one, and send again.

    Example: [bold]fedvox provision authority prepare[/]
    """
    coordinator, current = Coordinator(home), Authority(home)
    if step is Step.SWITCH:
        current.switch(_host(coordinator))
        out.print("the new authority signs; restart the server's units")
        return
    if step is Step.PREPARE:
        current.prepare_next(coordinator.study.name)
    else:
        current.forget_old()
    notice = coordinator.notice(current.pem)
    out.print(f"send {notice} to every site: fedvox site trust SITE {notice.name}", highlight=False)


@provision_app.command("revoke")
def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    home: Home = HOME,
    port: Annotated[int, typer.Option("--port", help="Loopback port of Flower's server.")] = INTERNAL_PORT,
) -> None:
    """Take nothing from a site any more, for good, and end its connection.

    Example: [bold]fedvox provision revoke north[/]
    """
    coordinator = Coordinator(home)
    coordinator.revoke(site)
    out.print(f"{site} is revoked; its keys never count again")
    try:
        FlowerCommand(coordinator, port).admit_sites()
    except RunError as error:
        err.print(f"[yellow]its connection is not ended yet:[/] {error}", highlight=False)


def _host(coordinator: Coordinator) -> str:
    return coordinator.address.rpartition(":")[0]


def _show(coordinator: Coordinator) -> None:
    rows, revoked = [], coordinator.revocations.sites
    for name, site in sorted(coordinator.sites.items()):
        state = "revoked" if name in revoked else "enrolled" if site.enrolment else "invited"
        rows.append([name, state, site.enrolment.key.fingerprint if site.enrolment else ""])
    out.print(table("sites", ["site", "state", "fingerprint of its signing key"], rows))
    left = days_left(coordinator.folder / "server.crt")
    warning = "  [yellow]renew it: fedvox provision renew[/]" if left < WARN_DAYS else ""
    out.print(f"the server's certificate is good for {left:.0f} days{warning}")
    out.print(f"the authority that signs it is good for {Authority(coordinator.folder).days_left:.0f} days")
