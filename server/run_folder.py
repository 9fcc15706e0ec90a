"""The folder of one run: who may write into it, and what lies where.

runs/NAME/
  run.json          study digest, versions, when it was made
  study.yaml        the study, resolved
  events.jsonl      one line per thing that happened
  ledger_heads.json last head of each site's privacy ledger, in a private study
  round.json        where the round at hand stands
  spool/            reports' tensors of the round at hand
  checkpoints/      codec-0003/, diffusion-0012/: the state after a round
  sites/            in simulation only: each site's own folder
  synthetic/        what `fedvox synth` made by default
  report.html, metrics.json, montages/, tensorboard/
"""

import fcntl
import importlib.metadata
import json
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from common.artifact import write_text_atomic
from common.code_digest import code_digest
from common.errors import RunError
from common.frozen import load_yaml, parse
from common.study import Study

RUN_FILE = "run.json"
RESULTS = ("report.html", "metrics.json", "montages", "tensorboard", "synthetic")
LOCK_TRIES, LOCK_AGAIN_S = 20, 0.05
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
        source = {**source, "code": code_digest()}
        text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)
        if folder._is_new(text):
            path.mkdir(parents=True, exist_ok=True)
            write_text_atomic(folder.study_file, text)
            record: dict[str, Any] = {
                "run": secrets.token_hex(16),
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
        if record["source"].get("code") != source["code"]:
            raise RunError(
                f"{path} was started by another version of fedvox, which would go on to other bits",
                "go on with that version, or choose another --name",
            )
        if record["source"] != source:
            raise RunError(
                f"{path} was started on other data or sites", "restore the data, or choose another --name"
            )
        return folder

    def _is_new(self, study: str) -> bool:
        """Return whether no run of another kind was begun here: only what is written before run.json."""
        if not self.path.exists():
            return True
        names = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if self.study_file.name in names and self.study_file.read_text(encoding="utf-8") != study:
            return False  # somebody's file, not what a start of this run was writing when it was killed
        # Simulated sites may have cached volumes before the run exists.
        return names <= {self.sites.name, self.study_file.name}

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

    def remove_results(self) -> None:
        """Remove what was made of the last global model: volumes, metrics, pictures, report."""
        for name in RESULTS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @property
    def identifier(self) -> str:
        """What tells this run from all others; drawn when it was made."""
        return str(self.record()["run"])

    @contextmanager
    def driven_by_one(self) -> Iterator[None]:
        """Keep other drivers off the run for the block.

        Raises:
            RunError: Another process drives it.
        """
        with self._driver_lock.open("w") as lock:
            for _ in range(LOCK_TRIES):
                if _got_lock(lock, fcntl.LOCK_EX):
                    break
                time.sleep(LOCK_AGAIN_S)  # it may only be somebody who asks whether it is driven
            else:
                raise RunError(f"{self.path} is driven by another process", "wait for it, or stop it")
            yield

    @property
    def is_driven(self) -> bool:
        """Whether a process drives the run now."""
        try:
            with self._driver_lock.open() as lock:
                return not _got_lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @property
    def _driver_lock(self) -> Path:
        return self.path / ".driver.lock"

    @property
    def mark(self) -> str:
        """``RESEARCH`` for a simulation, whose ledgers are this run's alone."""
        return str(self.record()["source"].get("mark", ""))

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
    def ledger_heads(self) -> Path:
        """Last heads of the sites' privacy ledgers."""
        return self.path / "ledger_heads.json"

    @property
    def board(self) -> Path:
        """Where the round at hand stands."""
        return self.path / "round.json"

    @property
    def spool(self) -> Path:
        """Folder of the tensors of the round at hand."""
        return self.path / "spool"

    @property
    def sites(self) -> Path:
        """Folder of the simulated sites."""
        return self.path / "sites"

    @property
    def synthetic(self) -> Path:
        """Where synthetic volumes go by default."""
        return self.path / "synthetic"


def _got_lock(file: IO[str], kind: int) -> bool:
    """Take the lock if it is to be had, until the file is closed; return whether it was."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
