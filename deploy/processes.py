"""The command lines of Flower's processes, with the safe flags, on both sides.

    coordinator   superlink   on loopback: TLS, node keys, SQLite, apps in processes of their own
                  executor    starts the study's driver when a run is submitted
                  proxy       nginx, the only one that listens to the world
    site          supernode   connects out, and starts the courier for every message

Telemetry, update checks and run-time installs are off everywhere.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from client.installation import AUTHORITY_FILE, COURIER_FOLDER, NODE_KEY
from common.artifact import OWNER_ONLY, PRIVATE_FILE, write_bytes_atomic, write_text_atomic
from common.quiet import FLOWER_QUIET
from deploy.app_bundle import bundle_hash
from deploy.disk_need import largest_message
from deploy.nginx import nginx_config
from server.coordinator import Coordinator

INTERNAL_PORT = 8000
SUPERNODE_PORT = 9094
SERVER = "here"  # as Flower's own files name the SuperLink
LOOPBACK = ("localhost", "127.0.0.1")
# Large blocks go back to the system at once: by default glibc keeps what threads have freed.
RETURN_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
SECRET, DATABASE, FLOWER_HOME = "executor.secret", "superlink.db", "flower"


@dataclass(frozen=True)
class Process:
    """A command line and what its environment holds besides.

    Attributes:
        words: Program and arguments.
        environment: Variables.
    """

    words: tuple[str, ...]
    environment: dict[str, str]

    def become(self) -> None:
        """Replace this process by that one."""
        os.execvpe(self.words[0], self.words, os.environ | self.environment)  # noqa: S606  no shell, on purpose


def superlink(coordinator: Coordinator, port: int) -> Process:
    """Return Flower's server, which only this machine can reach."""
    home = coordinator.folder
    words = (
        *(sys.executable, "-m", "deploy.guarded_superlink", str(largest_message(coordinator.study))),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(home / "ca.crt")),
        *("--ssl-certfile", str(home / "server.crt"), "--ssl-keyfile", str(home / "server.key")),
        "--enable-supernode-auth",
        *("--database", str(home / DATABASE)),
        "--disable-runtime-dependency-installation",
        *("--isolation", "process", "--superexec-auth-secret-file", str(_secret(home))),
    )
    return Process(words, _environment(home))


def executor(coordinator: Coordinator, port: int) -> Process:
    """Return what starts the study's driver."""
    home = coordinator.folder
    words = (
        program("flower-superexec"),
        *("--root-certificates", str(home / "ca.crt")),
        *("--runtime-api-address", f"127.0.0.1:{port}"),
        *("--superexec-auth-secret-file", str(_secret(home))),
    )
    return Process(words, _environment(home))


def proxy(coordinator: Coordinator, port: int) -> Process:
    """Return nginx, which lets sites reach what they need and nothing else."""
    home = coordinator.folder.resolve()
    config = home / "nginx.conf"
    write_text_atomic(config, nginx_config(home, coordinator.address, port))
    words = ("nginx", "-e", "stderr", "-p", str(home), "-c", str(config))
    return Process(words, {})


def supernode(folder: Path, address: str, socket: Path, port: int) -> Process:
    """Return a site's connection, which runs the app of the installed release and no other.

    Args:
        folder: The installed site's folder.
        address: Host and port of the coordinator.
        socket: The agent's socket.
        port: Loopback port of the SuperNode's own interface.
    """
    words = (
        *(sys.executable, "-m", "deploy.guarded_supernode", bundle_hash()),
        *("--superlink", address, "--root-certificates", str(folder / AUTHORITY_FILE)),
        *("--auth-supernode-private-key", str(folder / NODE_KEY)),
        *("--port", str(port), "--node-config", f'agent-socket="{socket}"'),
    )
    return Process(words, _environment(folder / COURIER_FOLDER))


def program(name: str) -> str:
    """Return a program of this very environment, wherever PATH points."""
    return str(Path(sys.executable).with_name(name))


def _environment(home: Path) -> dict[str, str]:
    # Flower finds its own programs by PATH.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    around = [name for name in (os.environ.get("NO_PROXY", ""), *LOOPBACK) if name]
    return {
        **FLOWER_QUIET,
        **RETURN_MEMORY,
        "FLWR_HOME": str((home / FLOWER_HOME).resolve()),
        "PATH": path,
        "NO_PROXY": ",".join(dict.fromkeys(around)),  # HTTPS_PROXY is for the way out
    }


def _secret(home: Path) -> Path:
    path = home / SECRET
    if not path.is_file():
        write_bytes_atomic(path, os.urandom(48).hex().encode(), mode=PRIVATE_FILE)
    return path


def flower_home(home: Path, port: int) -> Path:
    """Return Flower's own folder, with the SuperLink's address for its command line in it."""
    folder = home / FLOWER_HOME
    folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    text = (
        f'[superlink]\ndefault = "{SERVER}"\n[superlink.{SERVER}]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{(home / "ca.crt").resolve()}"\n'
    )
    write_text_atomic(folder / "config.toml", text)
    return folder
