"""Moments of a round, seen from outside by what lies on the disks and crosses the line: when to strike.

transit          the order is on its way, or about to be
order at 90 %    so much of its tensors has reached the site
training         the site makes steps
reply            the site's answer lies on its disk, and the coordinator does not have it
reply at 90 %    so much of its tensors has left the site
aggregating      all answers are at the coordinator, and the round is not finished
checkpoint       the next state is being written, or has just been
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.artifact import read_manifest, read_snapshot
from common.errors import ArtifactError
from server.round_board import ANSWERED

LOOK_S = 0.002


class Line:
    """The bytes that cross a host's line from now on.

    Args:
        device: The outer end of the line.
    """

    def __init__(self, device: str) -> None:
        self._folder = Path(f"/sys/class/net/{device}/statistics")
        self._at_first = (0, 0)
        self._at_first = (self.down, self.up)

    @property
    def down(self) -> int:
        """To the host: what the other end of its line has sent."""
        return int((self._folder / "tx_bytes").read_text()) - self._at_first[0]

    @property
    def up(self) -> int:
        """From the host."""
        return int((self._folder / "rx_bytes").read_text()) - self._at_first[1]


class Round:
    """The struck round of one run.

    Args:
        run: The run's folder.
        site: The folder of the site that is watched.
        stage: Its stage.
        index: Its number.
        line: The site's line.
    """

    def __init__(self, run: Path, site: Path, stage: str, index: int, line: Line | None = None) -> None:
        self.run, self.site, self.stage, self.index = run, site, stage, index
        self.line = line
        self._up_before: int | None = None

    def is_there(self, moment: str) -> bool:
        """Return whether the moment is now."""
        board = read_snapshot(self.run / "round.json")
        if (board.get("stage"), board.get("round")) != (self.stage, self.index):
            return moment == "checkpoint" and self.is_past
        states = {name: facts["state"] for name, facts in board["sites"].items()}
        if moment in ("aggregating", "checkpoint"):
            return set(states.values()) == {ANSWERED} if moment == "aggregating" else self._is_being_written()
        return states[self.site.name] != ANSWERED and self._is_at_site(moment)

    def _is_at_site(self, moment: str) -> bool:
        step, num = self._progress()
        now = {
            "transit": lambda: True,
            "order at 90 %": lambda: self.line.down > 0.9 * self.size,
            "training": lambda: 0 < step < num,
            "reply": lambda: any(self._answers()),
            "reply at 90 %": lambda: self._sent_of_reply() > 0.9 * self.size,
        }
        return now[moment]()

    def _is_being_written(self) -> bool:
        partial = (self.run / "checkpoints").glob(f".{self._name(self.index)}.partial-*")
        return any(partial) or self.is_past

    @property
    def size(self) -> float:
        """Bytes of the struck order's tensors, as they lie on the site's disk; infinite before."""
        found = [float("-inf")]
        for name in ("parameters", "frozen"):
            for path in (self.site / "state" / "orders").glob(f"*/{name}"):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    found.append(path.stat().st_size)
        return max(found) if len(found) > 1 else float("inf")

    def _sent_of_reply(self) -> int:
        if not any(self._answers()):
            return 0
        if self._up_before is None:
            self._up_before = self.line.up
        return self.line.up - self._up_before

    @property
    def is_past(self) -> bool:
        """Whether its state is written, or that of a later one."""
        return any(index >= self.index for index in self._written())

    def states(self) -> dict[str, object]:
        """Return the digests of the stage's states that are there, by their names."""
        found = {}
        for index in self._written():
            name = self._name(index)
            with contextlib.suppress(ArtifactError):  # removed meanwhile: it is old
                found[name] = read_manifest(self.run / "checkpoints" / name)["files"]
        return found

    def _written(self) -> list[int]:
        folders = (self.run / "checkpoints").glob(f"{self.stage}-*")
        return sorted(int(folder.name.removeprefix(f"{self.stage}-")) for folder in folders)

    def _name(self, index: int) -> str:
        return f"{self.stage}-{index:04d}"

    def _progress(self) -> tuple[int, int]:
        facts = read_snapshot(self.site / "state" / "progress.json")
        same = (facts.get("stage"), facts.get("round")) == (self.stage, self.index)
        return (facts["step"], facts["num_steps"]) if same else (0, 0)

    def _answers(self) -> Iterator[Path]:
        for header in (self.site / "state" / "orders").glob("*/answer/answer.header"):
            try:
                facts = json.loads(header.read_bytes())
            except (OSError, ValueError):
                continue
            if (facts.get("stage"), facts.get("round_index")) == (self.stage, self.index):
                yield header


class StepWatch:
    """Counts the steps that a site is seen to make, from now on: at most as many as it makes.

    Args:
        site: Its folder.
    """

    def __init__(self, site: Path) -> None:
        self._path = site / "state" / "progress.json"
        self._last = self._now()
        self._ended: list[list[int]] = []  # round, and steps made in one go
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Return all steps."""
        self._over.set()
        self._thread.join()
        return sum(steps for _, steps in self._ended)

    def steps_of(self, index: int) -> int:
        """Return the steps of a round."""
        return sum(steps for found, steps in self._ended if found == index)

    def _now(self) -> tuple:
        facts = read_snapshot(self._path)
        return tuple(facts.get(key) for key in ("time", "round", "step"))

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            now = self._now()
            if now == self._last or now[0] is None:
                continue
            before, self._last = self._last, now
            goes_on = bool(self._ended) and before[1] == now[1] and before[2] < now[2]
            if goes_on:
                self._ended[-1][1] = now[2]
            else:
                self._ended.append([now[1], now[2]])


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
