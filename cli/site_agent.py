"""`fedvox site install | approve | trust | start`: a hospital joins a study, and its agent works for it."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.console import err, out
from cli.unit_files import UNIT_FILES, write_units
from client.admission import check_admitted
from client.agent.desk import Desk
from client.agent.gate import Gate
from client.agent.order_book import OrderBook
from client.agent.plain_words import changes, in_plain_words, what_it_costs
from client.agent.service import AgentService
from client.approval import Approvals
from client.cohort import check_cohort
from client.installation import SITE_FILE, Installation, install
from client.site import Site
from client.site_config import SiteConfig, load_site_config
from common.artifact import write_text_atomic
from common.errors import ConfigError
from common.kit import read_kit
from common.study import Study, load_study
from deploy.processes import SUPERNODE_PORT, program, supernode
from deploy.site_users import SiteUsers, divide
from deploy.supervisor import keep_running
from deploy.units import AGENT_USER, COURIER_USER, GROUP, site_units

PID_FILE = "agent.pid"
DRAIN_LOOK_S = 0.2
SiteFile = Annotated[Path, typer.Argument(metavar="SITE", help="The site's YAML file.")]


def install_kit(
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="What the coordinator sent.")],
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="Of the kit, as the coordinator told it by telephone.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of the site's volumes.")],
    patients: Annotated[
        Path | None, typer.Option("--patients", help="CSV that says which file is of which patient.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="Folder of the site's privacy ledger, one for all private studies."),
    ] = None,
    into: Annotated[Path, typer.Option("--into", help="Folder for the site's files.")] = Path("site"),
) -> None:
    """Make the site's own keys and settings from a start-up kit.

    Example: [bold]fedvox site install north.kit --fingerprint 9f86d0... --data /data/mri[/]
    """
    kit, texts = read_kit(kit_file, fingerprint)
    enrolment = install(into, kit, texts, data, patients, ledger)
    out.print(f"complete {into / SITE_FILE}, and send {enrolment} to the coordinator", highlight=False)
    out.print(
        f"fingerprint of this site's signing key: {Installation(into).key.public.fingerprint}",
        highlight=False,
    )


def approve(
    site_file: SiteFile,
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="The study; that of the kit by default.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="How often it may be begun anew.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without being asked.")] = False,
) -> None:
    """Say in plain words what a study would do with this site's patients, and sign that it may.

    Example: [bold]fedvox site approve site/site.yaml[/]
    """
    installed = Installation(site_file.parent)
    study = installed.study if study_file is None else load_study(study_file)
    config = load_site_config(site_file)
    approvals = Approvals(config.state / "approvals", installed.key.public)
    for sentence in (*in_plain_words(study), *what_it_costs(study, config.policy)):
        out.print(f"- {sentence}", highlight=False, markup=False)
    for change in changes(study, approvals.all()):
        out.print(f"[yellow]changed:[/] {change}", highlight=False)
    check_admitted(config, study)
    num = check_cohort(config, study.volume)
    out.print(
        f"[bold]{num} patients[/] of yours are meant; fedvox site check {site_file} reads all their volumes"
    )
    if not yes and not typer.confirm(f"Approve this study for {runs} runs?"):
        err.print("not approved")
        raise typer.Exit(1)
    approvals.add(study, installed.coordinator, runs, installed.key)
    out.print(f"approved: study {study.digest}", highlight=False)


def trust(
    site_file: SiteFile,
    notice: Annotated[Path, typer.Argument(metavar="NOTICE", help="What the coordinator sent.")],
) -> None:
    """Believe the authorities that the study's coordinator names, after checking its seal.

    Example: [bold]fedvox site trust site/site.yaml authority.notice[/]
    """
    taken = Installation(site_file.parent).trust(notice)
    out.print(f"notice {taken.number} is taken; restart the connection")


def start(site_file: SiteFile) -> None:
    """Run the site's agent, which does the orders of approved studies, until it is stopped.

    Example: [bold]fedvox site start site/site.yaml[/]
    """
    config = load_site_config(site_file)
    installed = Installation(site_file.parent)
    if config.agent is None:
        raise ConfigError(f"{site_file} names no socket", "set agent: {socket: run/agent.sock}")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("fedvox").setLevel(logging.INFO)
    desk = Desk(
        config.name,
        Gate(config.name, Approvals(config.state / "approvals", installed.key.public)),
        OrderBook(config.state / "orders"),
        installed.key,
        _Sites(config).of,
    )
    service = AgentService(desk, config.agent.socket, config.agent.group, config.state / "spool")
    service.start()
    write_text_atomic(config.state / PID_FILE, f"{os.getpid()}\n")
    signal.signal(signal.SIGUSR1, lambda *_: _call_off(desk))
    signal.signal(signal.SIGUSR2, lambda *_: threading.Thread(target=_drain, args=(desk, service)).start())
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    signal.signal(signal.SIGINT, lambda *_: service.stop())
    out.print(f"agent of {config.name} listens at {config.agent.socket}", highlight=False)
    service.wait()


def cancel(site_file: SiteFile) -> None:
    """Call off the order that the site's agent is doing, at the end of its step.

    Example: [bold]fedvox site cancel site/site.yaml[/]
    """
    _tell_agent(site_file, signal.SIGUSR1)
    out.print("the agent was told; its log says whether there was an order")


def drain(site_file: SiteFile) -> None:
    """Let the site's agent finish the order at hand, take no other, and end: before an upgrade.

    Example: [bold]fedvox site drain site/site.yaml[/]
    """
    pid = _tell_agent(site_file, signal.SIGUSR2)
    while _is_agent(pid):
        time.sleep(DRAIN_LOOK_S)
    out.print("the agent has ended; its answer waits on the disk")


def _tell_agent(site_file: Path, number: signal.Signals) -> int:
    """Send a signal to the site's agent; return its process number."""
    path = load_site_config(site_file).state / PID_FILE
    try:
        pid = int(path.read_text(encoding="utf-8"))
        if not _is_agent(pid):
            raise ProcessLookupError  # the number is another process' by now
        os.kill(pid, number)
    except (OSError, ValueError):
        raise ConfigError("no agent of this site is running", "fedvox site start") from None
    return pid


def _is_agent(pid: int) -> bool:
    try:
        return b"start" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _drain(desk: Desk, service: AgentService) -> None:
    out.print("no new order is taken; the one at hand is finished")
    desk.drain()
    service.stop()


def _call_off(desk: Desk) -> None:
    out.print("the order is called off" if desk.cancel() else "there is no order to call off")


def connect(
    site_file: SiteFile,
    port: Annotated[int, typer.Option("--port", help="Loopback port of the connection's own interface.")] = (
        SUPERNODE_PORT
    ),
) -> None:
    """Connect to the coordinator and carry its orders to the agent, until it is stopped.

    Runs no code but that of the installed release, whatever the coordinator ships.

    Example: [bold]fedvox site connect site/site.yaml[/]
    """
    config = load_site_config(site_file)
    folder = site_file.parent.resolve()
    if config.agent is None:
        raise ConfigError(f"{site_file} names no socket", "set agent: {socket: run/agent.sock}")
    node = supernode(folder, Installation(folder).address, config.agent.socket, port)
    keep_running({"connection": node}, lambda text: err.print(text, highlight=False))


def units(
    site_file: SiteFile,
    to: Annotated[Path, typer.Option("--out", help="Folder for the unit files.")] = UNIT_FILES,
) -> None:
    """Write systemd units for agent and connection, each shut in as far as it can be.

    Example: [bold]fedvox site units site/site.yaml --out units[/]
    """
    texts = site_units(program("fedvox"), site_file.parent.resolve(), load_site_config(site_file))
    write_units(to, texts)
    out.print(f"wrote {', '.join(texts)} in {to}; make the users that they name", highlight=False)


def users(
    site_file: SiteFile,
    agent: Annotated[str, typer.Option("--agent", help="User of the agent.")] = AGENT_USER,
    courier: Annotated[str, typer.Option("--courier", help="User of the connection.")] = COURIER_USER,
    group: Annotated[str, typer.Option("--group", help="Group of both.")] = GROUP,
) -> None:
    """Divide the site's files between two users, as root: the connection cannot read what the agent holds.

    Example: [bold]sudo fedvox site users site/site.yaml[/]
    """
    left = divide(site_file.parent.resolve(), SiteUsers(agent, courier, group))
    out.print(f"{agent} has keys, state and ledger; {courier} has its own folder and the socket")
    for path in left:
        out.print(f"[yellow]outside the site's folder:[/] give {path} to {agent} yourself", highlight=False)


class _Sites:
    """Keeps the study's site that is open: its volumes and latents stay warm from order to order."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._open: Site | None = None

    def of(self, study: Study) -> Site:
        """Return the site of a study."""
        if self._open is None or self._open.study != study:
            self._open = Site(self._config, study)
        return self._open
