"""The folder of one run: who may write into it, and what lies where.

runs/NAME/
  run.json          study digest, versions, when it was made
  study.yaml        the study, resolved
  events.jsonl      one line per thing that happened
  checkpoints/      codec-0003/, diffusion-0012/: the state after a round
  sites/            in simulation only: each site's own folder
  synthetic/        what `fedvox synth` made by default
  report.html, metrics.json, montages/, tensorboard/
"""

import importlib.metadata
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from common.artifact import write_text_atomic
from common.errors import RunError
from common.frozen import load_yaml, parse
from common.study import Study

RUN_FILE = "run.json"
PACKAGES = ("fedvox", "torch", "flwr", "monai", "numpy", "nibabel", "ray")


class RunFolder:
    """A run's folder, opened for exactly one study.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create_or_resume(cls, path: Path, study: Study, source: dict[str, Any]) -> "RunFolder":
        """Return the folder for ``study``: a new one, or the one an earlier start of it made.

        Args:
            path: The folder.
            study: The study to run.
            source: JSON values that identify what else the run depends on, such as the digests of
                the sites' data in a simulation; a resumed run must agree.

        Raises:
            RunError: The folder holds another study, other data, or something else altogether.
        """
        folder = cls(path)
        # Simulated sites may have cached volumes before the run exists.
        if not path.exists() or {entry.name for entry in path.iterdir()} <= {folder.sites.name}:
            path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
            write_text_atomic(folder.study_file, text)
            record: dict[str, Any] = {
                "study_digest": study.digest,
                "source": source,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
            }
            write_text_atomic(path / RUN_FILE, json.dumps(record, indent=2) + "\n")
            return folder
        record = folder.record()
        if record["study_digest"] != study.digest:
            raise RunError(
                f"{path} belongs to another study ({record['study_digest'][:12]}, not {study.digest[:12]})",
                "choose another --name, or move that folder away",
            )
        if record["source"] != source:
            raise RunError(
                f"{path} was started on other data or sites", "restore the data, or choose another --name"
            )
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Return an existing run's folder.

        Raises:
            RunError: There is no run in ``path``.
        """
        folder = cls(path)
        folder.record()
        return folder

    def record(self) -> dict[str, Any]:
        """Return the content of run.json."""
        try:
            return dict(json.loads((self.path / RUN_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise RunError(
                f"{self.path} is not a run folder: no readable {RUN_FILE}", "check --run"
            ) from None

    def study(self) -> Study:
        """Return the study of this run."""
        return parse(Study, load_yaml(self.study_file), where=str(self.study_file))

    @property
    def study_file(self) -> Path:
        """The resolved study."""
        return self.path / "study.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def sites(self) -> Path:
        """Folder of the simulated sites."""
        return self.path / "sites"

    @property
    def synthetic(self) -> Path:
        """Where synthetic volumes go by default."""
        return self.path / "synthetic"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
