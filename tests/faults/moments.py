"""Moments of a round, seen from outside by what lies on the disks: when to strike.

transit       the order has left, and the site does not have it yet
training      the site makes steps
reply         the site's answer lies on its disk, and the coordinator does not have it
aggregating   all answers are at the coordinator, and the round is not finished
checkpoint    the next state is being written
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.artifact import read_snapshot
from server.round_board import ANSWERED

LOOK_S = 0.002
STAGE, ROUND = "codec", 2  # that is struck


class Round:
    """The struck round of one run.

    Args:
        run: The run's folder.
        site: The folder of the site that is watched.
    """

    def __init__(self, run: Path, site: Path) -> None:
        self.run, self.site = run, site

    def is_there(self, moment: str) -> bool:
        """Return whether the moment is now."""
        board = read_snapshot(self.run / "round.json")
        if (board.get("stage"), board.get("round")) != (STAGE, ROUND):
            return moment == "checkpoint" and self._is_past(board)
        states = {name: facts["state"] for name, facts in board["sites"].items()}
        own = states[self.site.name]
        match moment:
            case "transit":
                return own != ANSWERED
            case "training":
                step, num = self._progress()
                return 0 < step < num
            case "reply":
                return own != ANSWERED and any(self._answers())
            case "aggregating":
                return set(states.values()) == {ANSWERED}
            case _:
                partial = (self.run / "checkpoints").glob(f".{STAGE}-{ROUND:04d}.partial-*")
                return any(partial) or self._is_written()

    def _is_past(self, board) -> bool:
        return bool(board) and self._is_written()

    def _is_written(self) -> bool:
        return (self.run / "checkpoints" / f"{STAGE}-{ROUND:04d}").is_dir()

    def _progress(self) -> tuple[int, int]:
        try:
            facts = json.loads((self.site / "state" / "progress.json").read_text())
        except (OSError, ValueError):
            return 0, 0
        same = (facts["stage"], facts["round"]) == (STAGE, ROUND)
        return (facts["step"], facts["num_steps"]) if same else (0, 0)

    def _answers(self) -> Iterator[Path]:
        for header in (self.site / "state" / "orders").glob("*/answer/answer.header"):
            try:
                facts = json.loads(header.read_bytes())
            except (OSError, ValueError):
                continue
            if (facts.get("stage"), facts.get("round_index")) == (STAGE, ROUND):
                yield header


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as a condition holds.

    Raises:
        TimeoutError: It did not in time.
    """
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what}: not in {seconds:.0f} s")
        time.sleep(LOOK_S)
