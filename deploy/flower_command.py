"""Flower's command line, pointed at the server on this machine: that interface has no other client."""

import contextlib
import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common.artifact import write_text_atomic
from common.errors import RunError
from common.quiet import FLOWER_QUIET
from deploy.app_bundle import write_bundle
from deploy.processes import SERVER, flower_home, program
from server.coordinator import Coordinator

COMMAND_S = 60.0
UNKNOWN = "unknown"
LOCK = "nodes.lock"
NODES = "nodes.json"  # Flower's numbers of the sites that were let in


class FlowerCommand:
    """Lets sites in and out, submits runs, asks after them.

    Args:
        coordinator: Whose server it is.
        port: The server's loopback port.
    """

    def __init__(self, coordinator: Coordinator, port: int) -> None:
        self._coordinator = coordinator
        self._environment = FLOWER_QUIET | {"FLWR_HOME": str(flower_home(coordinator.folder, port))}

    def admit_sites(self) -> None:
        """Let the enrolled sites' connections in, and those of revoked sites out for good.

        Raises:
            RunError: The server does not answer, or does not take a site, or does not let one go.
        """
        with (self._coordinator.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two of us would write down less than they know
            self._admit()

    def _admit(self) -> None:
        nodes = self._nodes()
        admitted = self._coordinator.keys().keys()
        for name in sorted(admitted):  # also those that were: a server with a new database knows nobody
            number = self._register(name)
            nodes[name] = nodes.get(name) if number is None else number
            self._note(nodes)
        for name in sorted(nodes.keys() - admitted):
            if nodes[name] is None:
                raise RunError(
                    f"nobody wrote down the number of {name}, whose connection is to end",
                    "look it up: flwr supernode list, then flwr supernode unregister",
                )
            answer = self._call("supernode", "unregister", str(nodes[name]), SERVER)
            if not answer.get("success"):
                raise RunError(f"{name} is not let go: {answer.get('error-message')}", "see the server's log")
            del nodes[name]
            self._note(nodes)

    def _register(self, name: str) -> int | None:
        """Return Flower's number of a site; None if the server knew it before."""
        enrolment = self._coordinator.sites[name].enrolment
        if enrolment is None:
            raise RunError(f"site {name} is not enrolled", "fedvox provision enrol")
        with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
            file.write(enrolment.node_key + "\n")
            file.flush()
            answer = self._call("supernode", "register", file.name, SERVER, "--name", name)
        said = str(answer.get("error-message"))
        if "is unavailable" in said:
            raise _no_server()
        if not answer.get("success") and "already in use" not in said:
            raise RunError(f"site {name} is not taken: {said}", "see the server's log")
        return answer.get("node-id")

    def _nodes(self) -> dict[str, int | None]:
        path = self._coordinator.folder / NODES
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _note(self, nodes: dict[str, int | None]) -> None:
        write_text_atomic(self._coordinator.folder / NODES, json.dumps(nodes, indent=1, sort_keys=True))

    def submit(self, run_folder: Path) -> str:
        """Start the driver of a run; return Flower's identifier of it.

        Raises:
            RunError: The server does not answer, or does not take it.
        """
        with tempfile.TemporaryDirectory(prefix="fedvox-") as folder:
            app = Path(folder) / "fedvox"
            write_bundle(app)
            home = self._coordinator.folder.resolve()
            settings = f'run-folder="{run_folder.resolve()}" coordinator="{home}"'
            answer = self._call("run", str(app), SERVER, "--run-config", settings)
        if not answer.get("success"):
            raise RunError(f"the run was not taken: {answer.get('error-message')}", "fedvox server start")
        return str(answer["run-id"])

    def stop(self, identifier: str) -> None:
        """Let Flower call a run over; one that is over already is no error, nor is a server that is down."""
        with contextlib.suppress(RunError):
            self._call("stop", identifier, SERVER)

    def status(self, identifier: str) -> str:
        """Return what Flower calls a run's state, such as ``finished:completed``, or ``unknown``.

        A server that is being started again, or does not know the run, is no error.
        """
        try:
            runs = self._call("ls", SERVER, "--run-id", identifier).get("runs", [])
        except RunError:
            runs = []
        return str(runs[0]["status"]) if runs else UNKNOWN

    def _call(self, *words: str) -> dict[str, Any]:
        try:
            done = subprocess.run(  # noqa: S603  fixed program, no shell
                [program("flwr"), *words, "--format", "json"],
                env=os.environ | self._environment,
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
            )
            return dict(json.loads(done.stdout))
        except (ValueError, subprocess.TimeoutExpired):
            raise _no_server() from None


def _no_server() -> RunError:
    return RunError("Flower's server does not answer", "start it: fedvox server start")
