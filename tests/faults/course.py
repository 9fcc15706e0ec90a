"""One run of a study from outside: faults happen in its rounds, one after another."""

import time
from collections.abc import Callable

from server.events import read_events
from server.run_folder import RunFolder
from tests.faults.faults import Fault
from tests.faults.grounds import Ground, Verdict
from tests.faults.moments import LOOK_S, Round

MOST_S = 600.0  # that a round may take, fault included
CALM_S = 0.02  # from look to look where nothing is to be struck: a look is work


class Course:
    """A run that has begun.

    Args:
        ground: The federation.
        name: Of the run.
    """

    def __init__(self, ground: Ground, name: str) -> None:
        self.ground = ground
        self.run = ground.made.folder / "runs" / name
        ground.before(self.run)
        ground.made.run_study(name, *ground.start_from)
        self.round = ground.round(self.run, 1)

    def wait_for(self, moment: str) -> bool:
        """Return True as soon as the moment is there, in this round or a later one; False if it never was.

        Raises:
            TimeoutError: A round goes on without it.
        """
        give_up = time.monotonic() + MOST_S
        while self._is_on:
            if self.round.index >= self.ground.first and self.round.is_there(moment):
                return True
            if self.round.is_past:
                self.ground.pass_by(self.round)
                self.round, give_up = self._next(), time.monotonic() + MOST_S
            if time.monotonic() > give_up:
                raise TimeoutError(f"{moment}: not in {MOST_S:.0f} s")
            time.sleep(LOOK_S if self.round.index >= self.ground.first else CALM_S)
        return False

    def strike(self, fault: Fault) -> Verdict:
        """Let a fault happen now; return the verdict on its round, once that is over."""
        struck = self.round
        fault.strike(self.ground.made, struck)
        self._wait(lambda: struck.is_past, MOST_S, "the end of the round")
        self.round = self._next()
        if not struck.is_past:
            return False, self._last_words()
        return self.ground.verdict(fault, struck)

    def end(self) -> Verdict:
        """Return the verdict on the run, once it is over."""
        self._wait(lambda: False, MOST_S, "the end of the run")
        if self._study.process.returncode != 0:
            return False, self._last_words()
        return self.ground.last_verdict(self.run)

    def note_all(self) -> None:
        """Let the ground remember how the rounds end, and the run, to which nothing happens."""
        while self._is_on:
            self._wait(lambda: self.round.is_past, MOST_S, "the end of a round")
            if self.round.is_past:
                self.ground.note(self.round)
                self.round = self._next()
        assert self._study.process.returncode == 0, self._last_words()
        events = [one["event"] for one in read_events(RunFolder(self.run).events)]
        assert "driver_restarted" not in events, "nothing happened, and yet the driver was started again"
        self.ground.note_end(self.run)

    def _next(self) -> Round:
        return self.ground.round(self.run, self.round.index + 1)

    @property
    def _study(self):
        return self.ground.made.running["study"]  # a strike may have started it again

    @property
    def _is_on(self) -> bool:
        return self._study.process.poll() is None

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Return when the condition holds or the run is over.

        Raises:
            TimeoutError: Neither in time.
        """
        give_up = time.monotonic() + seconds
        while self._is_on and not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what}: not in {seconds:.0f} s")
            time.sleep(CALM_S)

    def _last_words(self) -> str:
        return self._study.log.read_text(errors="replace").strip().splitlines()[-1]
