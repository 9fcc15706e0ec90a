"""The run's event log, events.jsonl: one JSON object a line, flushed to the disk line by line."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import ArtifactError, RunError


class EventLog:
    """Appends events to a file. A killed run leaves at most a truncated last line.

    Args:
        path: The file; it is created if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **facts: Any) -> None:
        """Write one event with the time of day (UTC).

        Raises:
            ArtifactError: The disk is full or not writable.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, **facts}, separators=(",", ":"))
        try:
            self._append(line.encode())
        except OSError as error:
            raise ArtifactError(
                f"{self.path} could not be written: {error.strerror}", "free some disk space"
            ) from None

    def _append(self, line: bytes) -> None:
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")  # after a crash: keep the truncated line apart from this one
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events in the order they happened; none if there is no log yet.

    A line that is no JSON object is what a killed run had begun to write: it is left out, at the end
    and, after a resumed run, in the middle. Events of unknown kinds are returned like any other.

    Raises:
        RunError: The file exists and cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}", "check the run folder") from None
    parsed = (_parse(line) for line in content.splitlines())
    return [event for event in parsed if event is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # a truncated line, or one cut inside a character
        return None
    return event if isinstance(event, dict) and "event" in event else None
