"""A federation of separate hosts for tests: network namespaces, real processes, real certificates.

Each host has a namespace of its own, joined by a bridge; without namespaces (not root, or not wanted) all
hosts are this machine, and the server goes without nginx.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.e2e.command_line import fedvox
from tests.small_federation import write_volumes

FEDVOX = Path(sys.executable).with_name("fedvox")
NETWORK = "10.77.0"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
CAN_HAVE_HOSTS = os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("nginx") is not None


def call(*words, cwd=None, namespace=None, timeout=120):
    """Run a command to its end; return what it printed."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run(
        [*prefix, *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@dataclass
class Hosts:
    """The namespaces of one coordinator and some sites.

    Attributes:
        names: Of the hosts, the coordinator first.
        bridge: Name of what joins them, and the beginning of all others; tests with others may run beside.
    """

    names: tuple[str, ...]
    bridge: str

    def address(self, name):
        return f"{NETWORK}.{self.names.index(name) + 1}"

    def namespace(self, name):
        return f"{self.bridge}-{name}"

    def outside(self, name):
        """The outer end of a host's line."""
        return f"{self.bridge}o{self.names.index(name)}"

    def __enter__(self):
        self._remove()
        call("ip", "link", "add", self.bridge, "type", "bridge")
        call("ip", "link", "set", self.bridge, "up")
        for index, name in enumerate(self.names):
            space, inside, outside = self.namespace(name), f"{self.bridge}i{index}", self.outside(name)
            call("ip", "netns", "add", space)
            call("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            call("ip", "link", "set", outside, "master", self.bridge, "up")
            call("ip", "link", "set", inside, "netns", space)
            call("ip", "addr", "add", f"{self.address(name)}/24", "dev", inside, namespace=space)
            for device in ("lo", inside):
                call("ip", "link", "set", device, "up", namespace=space)
        return self

    def __exit__(self, *_):
        self._remove()

    def _remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], capture_output=True, check=False)
        for link in (*map(self.outside, self.names), self.bridge):
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)


needs_hosts = [
    pytest.mark.hospitals,
    pytest.mark.skipif(not CAN_HAVE_HOSTS, reason="needs root, ip (iproute2) and nginx"),
]


@dataclass
class Running:
    """A process and where its log is."""

    process: subprocess.Popen
    log: Path

    def kill(self):
        """Kill it and all that it started, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()


@dataclass
class Deployment:
    """A coordinator and sites, taken through the runbook.

    Attributes:
        folder: Where all of them have their files.
        study: The study's content.
        hosts: Namespaces; None is this machine alone.
    """

    folder: Path
    study: dict
    hosts: Hosts | None = None
    port: int = 18443
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def sites(self):
        return self.study["federation"]["sites"]

    @property
    def address(self):
        return f"{self.hosts.address('coordinator') if self.hosts else 'localhost'}:{self.port}"

    def fedvox(self, host, *words, timeout=120):
        """Run a command of fedvox on a host to its end."""
        if self.hosts is None:  # in this process: starting Python anew takes seconds
            result = fedvox(*words, cwd=self.folder)
            assert result.returncode == 0, (words, result.stderr)
            return result.stdout
        namespace = self.hosts.namespace(host) if self.hosts else None
        return call(FEDVOX, *words, cwd=self.folder, namespace=namespace, timeout=timeout)

    def start(self, host, name, *words):
        """Start a command of fedvox on a host."""
        return self._started(host, name, (FEDVOX, *words), self.folder)

    def _started(self, host, name, words, folder, environment=ENVIRONMENT):
        prefix = ["ip", "netns", "exec", self.hosts.namespace(host)] if self.hosts and host else []
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*prefix, *map(str, words)],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.running[name] = Running(process, log)
        return self.running[name]

    def start_light(self, site, manner):
        """Start a light site, which needs neither agent nor connection, once the server lets it in."""
        self.wait_for_admission()
        words = (sys.executable, "-m", "tests.e2e.light_site", self.address, manner, self.folder / site)
        return self.start_program(site, f"{site}-light", *words)

    def start_program(self, host, name, *words, environment=ENVIRONMENT):
        """Start any program on a host, or beside all of them, in the project's folder."""
        return self._started(host, name, words, Path(__file__).parents[2], environment)

    def provision(self):
        """Kits, installation, enrolment, approval."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.study))
        self.fedvox("coordinator", "provision", "study.yaml", "--address", self.address)
        for site in self.sites:
            kit = self.folder / "kits" / f"{site}.kit"
            fingerprint = hashlib.sha256(kit.read_bytes()).hexdigest()
            words = ("--fingerprint", fingerprint, "--data", f"data/{site}", "--into", site)
            table = self.folder / "data" / site / "patients.csv"
            patients = ("--patients", table) if table.is_file() else ()
            ledger = ("--ledger", f"{site}/ledger") if "privacy" in self.study else ()
            self.fedvox(site, "site", "install", kit, *words, *patients, *ledger)
            if ledger:
                self.fedvox(site, "site", "ledger", "create", f"{site}/site.yaml")
            self.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes")
        self.fedvox("coordinator", "provision", "enrol", *(f"{s}/{s}.enrol" for s in self.sites))

    def start_server(self):
        internal = self.port if self.hosts is None else 8000
        proxy = ("--no-proxy",) if self.hosts is None else ()
        self.start("coordinator", "server", "server", "start", "--port", internal, *proxy)

    def start_agent(self, site):
        self.start(site, f"{site}-agent", "site", "start", f"{site}/site.yaml")

    def start_connection(self, site):
        port = 19094 + self.sites.index(site)
        self.start(site, f"{site}-connection", "site", "connect", f"{site}/site.yaml", "--port", port)

    def start_all(self):
        self.start_server()
        for site in self.sites:
            self.start_agent(site)
            self.start_connection(site)

    def wait_for_admission(self):
        """Wait until the server lets sites in: what nobody starts again must not come earlier."""
        log = self.running["server"].log
        self.wait_for(lambda: "sites that may connect" in log.read_text(errors="replace"), 120, "admission")

    def run_study(self, name=None, *words):
        """Start the study, or go on with it; it ends by itself."""
        internal = self.port if self.hosts is None else 8000
        run = ("study", "run", "study.yaml", "--server", "--port", internal, "--json", *words)
        return self.start("coordinator", "study", *run, *(("--name", name) if name else ()))

    def wait_for(self, condition, seconds, what):
        give_up = time.monotonic() + seconds
        while not condition():
            logs = {n: r.log.read_text(errors="replace")[-1500:] for n, r in self.running.items()}
            assert time.monotonic() < give_up, (f"{what} did not happen in {seconds} s", logs)
            time.sleep(0.2)

    def events(self):
        path = self.folder / "runs" / self.study["name"] / "events.jsonl"
        return path.read_text() if path.is_file() else ""

    def finished(self, seconds=300):
        """Wait for the study's end; return what it printed."""
        study = self.running["study"]
        self.wait_for(lambda: study.process.poll() is not None, seconds, "the end of the study")
        text = study.log.read_text(errors="replace")
        assert study.process.returncode == 0, text[-3000:]
        return text

    def stop(self):
        for running in self.running.values():
            running.stop()


@contextlib.contextmanager
def hospitals(folder: Path, study: dict, bridge: str):
    """Yield a provisioned deployment on hosts of their own; whoever has other volumes has written them."""
    sites = study["federation"]["sites"]
    for seed, site in enumerate(sites):
        if not (folder / "data" / site).exists():
            write_volumes(folder / "data" / site, 6, seed)
    with Hosts(("coordinator", *sites), bridge) as hosts:
        made = Deployment(folder, study, hosts, port=443)
        try:
            made.provision()
            yield made
        finally:
            made.stop()
