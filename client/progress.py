"""Where a site's training stands, in a small file that others may look at while it runs."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from common.artifact import write_text_atomic
from common.errors import ArtifactError

INTERVAL_S = 0.5  # writing more often would cost more than it tells

StepCallback = Callable[[str, int, int, int, float | None], None]
"""Stage, round, step of the round, steps a round, and the loss, which private rounds do not tell."""


class ProgressFile:
    """Writes ``progress.json``: stage, round, step, number of steps, loss, time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written_at = 0.0

    def __call__(self, stage: str, round_index: int, step: int, num_steps: int, loss: float | None) -> None:
        """Record one finished step; most calls write nothing, and one that cannot stops no training."""
        now = time.monotonic()
        if now - self._written_at < INTERVAL_S and step < num_steps:
            return
        self._written_at = now
        content = {
            "stage": stage,
            "round": round_index,
            "step": step,
            "num_steps": num_steps,
            "loss": loss,
            "time": time.time(),
        }
        with contextlib.suppress(ArtifactError):  # a full disk
            write_text_atomic(self.path, json.dumps(content))
