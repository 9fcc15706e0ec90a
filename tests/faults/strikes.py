"""What is done to a federation.

Each takes the deployment and the round that is struck, and mends what nobody else would mend.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.authority import Authority
from tests.e2e.hosts import FEDVOX, Deployment, call
from tests.faults.moments import Round, wait_until
from tests.faults.tun import NEAR

VICTIM = "north"  # the site that faults happen to
MOST_S = 300.0  # that a round may take while something lasts
LEAST_PACKETS = 20  # that crossed a bad line, each way
Strike = Callable[[Deployment, Round], None]

# How each process is told from all others: all words are in its command line.
PROCESSES = {
    "courier": ("flwr-clientapp", "19094"),
    "agent": ("fedvox", "site", "start", f"{VICTIM}/site.yaml"),
    "SuperNode": ("deploy.guarded_supernode", "19094"),
    "SuperLink": ("deploy.guarded_superlink",),
    "driver": ("flwr-serverapp",),
}


def processes(made: Deployment, *words: str) -> list[int]:
    """Return the processes on the deployment's own hosts whose command lines hold all words."""
    spaces = {Path("/run/netns", made.hosts.namespace(host)).stat().st_ino for host in made.hosts.names}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            is_ours = (entry / "ns" / "net").stat().st_ino in spaces
        except OSError:
            continue
        if is_ours and all(word in line for word in words):
            found.append(int(entry.name))
    return found


def kill(name: str) -> Strike:
    """Return what kills a part with -9; an agent is started again, as systemd would."""

    def strike(made: Deployment, struck: Round) -> None:
        victims: list[int] = []

        def found() -> bool:
            victims[:] = processes(made, *PROCESSES[name])
            return bool(victims)

        wait_until(found, 30, f"a {name}")  # a courier is there only while it has a message
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if name == "agent":
            made.running[f"{VICTIM}-agent"].process.wait()
            time.sleep(1)
            made.start_agent(VICTIM)

    return strike


def cut(seconds: float) -> Strike:
    """Return what takes a site's link down for some time."""

    def strike(made: Deployment, struck: Round) -> None:
        device = made.hosts.outside(VICTIM)
        call("ip", "link", "set", device, "down")
        time.sleep(seconds)
        call("ip", "link", "set", device, "up")

    return strike


def bad_line(made: Deployment, struck: Round) -> None:
    """Let a site's line have 200 ms of round trip and 5 % of loss, until the round is over."""
    hosts = made.hosts
    near, far = hosts.namespace(VICTIM), hosts.namespace("coordinator")
    words = (near, far, hosts.address("coordinator"), hosts.address(VICTIM), "0.1", "0.05")
    line = made.start_program(None, "bad-line", sys.executable, "-m", "tests.faults.tun", *words)
    try:
        wait_until(lambda: "relays" in line.log.read_text().splitlines()[-1:], 20, "the relay")
        wait_until(lambda: struck.is_past, MOST_S, "the end of the round")
        assert line.process.poll() is None, line.log.read_text()
        for counter in ("rx_packets", "tx_packets"):
            passed = call("cat", f"/sys/class/net/{NEAR}/statistics/{counter}", namespace=near)
            assert int(passed) > LEAST_PACKETS, (counter, passed)
    finally:
        line.kill()


def slow_down(made: Deployment, struck: Round) -> None:
    """Let a site's agent run a tenth of the time, until the round is over."""
    agent = made.running[f"{VICTIM}-agent"].process
    give_up = time.monotonic() + MOST_S
    try:
        while not struck.is_past and time.monotonic() < give_up:
            os.killpg(agent.pid, signal.SIGSTOP)
            time.sleep(0.9)
            os.killpg(agent.pid, signal.SIGCONT)
            time.sleep(0.1)
    finally:
        os.killpg(agent.pid, signal.SIGCONT)


def lock_database(made: Deployment, struck: Round) -> None:
    """Hold Flower's database locked for 20 seconds, four times as long as it waits for it."""
    connection = sqlite3.connect(made.folder / "coordinator" / "superlink.db", timeout=60)
    connection.execute("BEGIN EXCLUSIVE")
    time.sleep(20)
    connection.rollback()
    connection.close()


def expire(made: Deployment, struck: Round) -> None:
    """Let the server's certificate be expired for half a minute; then renew it."""
    address = made.hosts.address("coordinator")
    home = made.folder / "coordinator"
    Authority(home).issue(address, days=0)
    try:
        reload_proxy(made)
        time.sleep(30)
        words = [FEDVOX, "site", "check", f"{VICTIM}/site.yaml", "--network", "--json"]
        said = subprocess.run(
            ["ip", "netns", "exec", made.hosts.namespace(VICTIM), *words],
            cwd=made.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "E_CERT_EXPIRED" in said.stdout, said.stdout + said.stderr
    finally:
        made.fedvox("coordinator", "provision", "renew")
        reload_proxy(made)


def reload_proxy(made: Deployment) -> None:
    """Let nginx read its certificate again."""
    for process in processes(made, "nginx: master"):
        os.kill(process, signal.SIGHUP)


def skew_clock(made: Deployment, struck: Round) -> None:
    """Let a site's connection have a clock that is a day ahead, for half a minute."""
    name = f"{VICTIM}-connection"
    made.running[name].stop()
    site_file = made.folder / VICTIM / "site.yaml"
    wrong = ("env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", "+1d", FEDVOX, "site")
    made.start_program(VICTIM, name, *wrong, "connect", site_file, "--port", 19094)
    try:
        time.sleep(30)
        inside = ("ip", "netns", "exec", made.hosts.namespace(VICTIM))
        said = subprocess.run(
            [*inside, *wrong, "check", site_file, "--network", "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "E_CLOCK" in said.stdout, said.stdout + said.stderr
    finally:
        made.running[name].stop()
        made.start_connection(VICTIM)


def fill_site_disk(made: Deployment, struck: Round) -> None:
    """Fill the site's disk until it has said so, then make room."""
    with Filled(made.folder / VICTIM / "state"):
        wait_until(lambda: "E_DISK" in events(struck.run), 200, "E_DISK")


def fill_server_disk(made: Deployment, struck: Round) -> None:
    """Fill the coordinator's disk until `study run` has ended and said so; then make room and go on."""
    study = made.running["study"]
    earlier = study.log.stat().st_size
    with Filled(made.folder / "runs"):
        study.process.wait(200)
    assert study.process.returncode == 1
    assert b"free some disk space" in study.log.read_bytes()[earlier:]
    made.run_study(struck.run.name)


class Filled:
    """A folder whose disk is full for the time of a block: it lies on a small tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast"

    def __enter__(self) -> None:
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * (1 << 16))

    def __exit__(self, *_) -> None:
        self.ballast.unlink()


def events(run: Path) -> str:
    """Return the run's events as text."""
    path = run / "events.jsonl"
    return path.read_text() if path.is_file() else ""
