"""Flower's command line, pointed at the server on this machine: that interface has no other client."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.quiet import FLOWER_QUIET
from deploy.app_bundle import write_bundle
from deploy.processes import SERVER, flower_home, program
from server.coordinator import Coordinator

COMMAND_S = 60.0
UNKNOWN = "unknown"


class FlowerCommand:
    """Registers sites, submits runs, asks after them.

    Args:
        coordinator: Whose server it is.
        port: The server's loopback port.
    """

    def __init__(self, coordinator: Coordinator, port: int) -> None:
        self._coordinator = coordinator
        self._environment = FLOWER_QUIET | {"FLWR_HOME": str(flower_home(coordinator.folder, port))}

    def register_sites(self) -> None:
        """Let the enrolled sites' connections in; those that are known already are no error.

        Raises:
            RunError: The server does not answer, or does not take a site.
        """
        for name, site in sorted(self._coordinator.sites.items()):
            if site.enrolment is None or site.revoked:
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
                file.write(site.enrolment.node_key + "\n")
                file.flush()
                answer = self._call("supernode", "register", file.name, SERVER, "--name", name)
            if not answer.get("success") and "already in use" not in json.dumps(answer):
                raise RunError(f"site {name} is not taken: {answer.get('error-message')}", "see its log")

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
            raise RunError("Flower's server does not answer", "start it: fedvox server start") from None
