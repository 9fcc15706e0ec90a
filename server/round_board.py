"""Where the round at hand stands, for people who watch: round.json in the run's folder.

Nothing depends on it. It says what the sites' own words were, when they came, and nothing of their patients.
"""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.federation.messages import TrainOrder

ASKED, TRAINS, ANSWERED = "order sent", "trains", "answered"
SILENT, OFFLINE = "no answer", "offline"
UNASKED, NOT_CONNECTED, NOT_ADMITTED = "not asked yet", "not connected", "revoked or not enrolled"


@dataclass
class SiteState:
    """What is known of one site.

    Attributes:
        state: In a word, or the code of its failure.
        fraction: How far its order is.
        time: When that was heard, seconds since the epoch.
    """

    state: str = UNASKED
    fraction: float = 0.0
    time: float = field(default_factory=time.time)


@dataclass
class RoundBoard:
    """The states of the sites of a round.

    Attributes:
        path: File that they are written into.
    """

    path: Path
    _facts: dict[str, Any] = field(default_factory=dict)
    _sites: dict[str, SiteState] = field(default_factory=dict)

    def open(self, orders: Sequence[TrainOrder], deadline_s: float) -> None:
        """Begin with the orders of a round, or of another attempt at it."""
        now = time.time()
        order = orders[0]
        self._facts = {
            "stage": order.stage.value,
            "round": order.round_index,
            "attempt": order.attempt,
            "began": now,
            "deadline": now + deadline_s,
        }
        self._sites = {order.site: SiteState() for order in orders}
        self._write()

    def word_of(self, site: str) -> str:
        """Return what was last noted of a site."""
        return self._sites[site].state

    def note_absent(self, site: str, word: str) -> None:
        """Say why a site is sent nothing; the time is of when that began."""
        if self.word_of(site) != word:
            self.note(site, word)

    def note(self, site: str, state: str, fraction: float = 0.0) -> None:
        """Say how a site stands."""
        self._sites[site] = SiteState(state, fraction)
        self._write()

    def _write(self) -> None:
        content = {**self._facts, "sites": {site: asdict(state) for site, state in self._sites.items()}}
        # Not flushed to the disk: after a crash it would be out of date anyway.
        partial = self.path.with_name(f".{self.path.name}.partial")
        with contextlib.suppress(OSError):  # a full disk stops what matters, not this
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
            partial.replace(self.path)


def in_words(board: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return how each site of a board stands, and who is late.

    Late is a site that has not answered when half of the sites have, and as much time as they needed has gone
    by again.

    Args:
        board: What the file says; empty while there is none.
        now: Seconds since the epoch.
    """
    states = {site: SiteState(**facts) for site, facts in board.get("sites", {}).items()}
    needed = sorted(state.time - board["began"] for state in states.values() if state.state == ANSWERED)
    most = math.ceil(len(states) / 2)
    half = needed[most - 1] if 0 < most <= len(needed) else math.inf
    words = {}
    for site, state in sorted(states.items()):
        word = f"trains, {state.fraction:.0%}" if state.state == TRAINS else state.state
        if state.state != ANSWERED:
            late = "late, " if now - board["began"] > 2 * half else ""
            word = f"{late}{word} ({now - state.time:.0f} s ago)"
        words[site] = word
    return words
