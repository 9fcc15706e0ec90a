"""Reads a run's events.jsonl: one JSON object a line, appended by the server while the run goes on."""

import json
from pathlib import Path
from typing import Any

from common.errors import RunError


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
