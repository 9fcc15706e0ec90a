"""Break federations in every way of `faults.py` and see what comes of it: `make faults`.

Hosts in network namespaces, as in `make e2e`. In every run of a study several faults happen, one in a round,
and each round is judged. Prints a table; exit code 1 says that something did not end as it must. What ended
well with this very code, these faults included, is not done again: build/faults.json holds it. After a run
that did not end well the federation is made anew.

    python -m tests.faults.run [WORD...]     only faults whose ground and title hold all words
"""

import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from common.code_digest import code_digest
from tests.e2e.hosts import CAN_HAVE_HOSTS, hospitals
from tests.faults.course import Course
from tests.faults.faults import Fault
from tests.faults.grounds import GROUNDS, Ground

RESULTS = Path("build") / "faults.json"
CODE = (
    "common",
    "client",
    "server",
    "deploy",
    "cli",
    "tests/faults",
    "tests/e2e/hosts.py",
    "constraints.txt",
)


class Results:
    """What was done with this very code, kept from call to call."""

    def __init__(self) -> None:
        self.code = code_digest(CODE)
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        self.done = known.get("done", {}) if known.get("code") == self.code else {}

    def is_good(self, title: str) -> bool:
        """Return whether a fault need not be tried again."""
        return bool(self.done.get(title, {}).get("good"))

    def note(self, title: str, good: bool, found: str, seconds: float) -> None:
        """Keep and print how a fault ended."""
        self.done[title] = {"good": good, "found": found, "seconds": round(seconds)}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"code": self.code, "done": self.done}, indent=1))
        print(f"{'ok ' if good else 'BAD'} {seconds:4.0f} s  {title}: {found}", flush=True)


def title_of(ground: type[Ground], fault: Fault) -> str:
    return f"{ground.name}: {fault.title}"


def strike_run(ground: Ground, name: str, faults: list[Fault], results: Results) -> bool:
    """Let faults happen to one run; return whether all was well. One whose round never came is left out."""
    course, struck, good = Course(ground, name), [], True
    for fault in faults:
        started = time.monotonic()
        try:
            if not course.wait_for(fault.moment):
                break
            good, found = course.strike(fault)
        except Exception as error:
            good, found = False, f"{type(error).__name__}: {error}"
        results.note(title_of(type(ground), fault), good, found, time.monotonic() - started)
        if not good:
            return False
        struck.append(fault)
    good, found = course.end() if struck else (False, "the run was over before it could happen")
    for fault in [] if good else struck or faults:
        results.note(title_of(type(ground), fault), False, f"at the end of the run: {found}", 0)
    if good:
        print(f"       {ground.name}: the run ended: {found}", flush=True)
    return good


def strike_all(kind: type[Ground], runs: list[list[Fault]], results: Results) -> None:
    """Let faults happen to a federation, until a run does not end well."""
    with tempfile.TemporaryDirectory(prefix=f"faults-{kind.name}-") as name:
        folder = Path(name)
        rounds = kind.first - 1 + max(map(len, runs)) + kind.spare
        with hospitals(folder, kind.study(folder, rounds)) as made:
            ground = kind(made)
            try:
                ground.open()
                if kind.has_reference:
                    Course(ground, "undisturbed").note_all()
                for index, faults in enumerate(runs):
                    if not strike_run(ground, f"struck-{index}", faults, results):
                        break
            finally:
                try:
                    made.stop()
                finally:
                    ground.close()


def main() -> int:
    """Do what is not done yet; return the exit code."""
    if not CAN_HAVE_HOSTS:
        print("skipped: needs root, ip (iproute2) and nginx")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or hosts and mounts would be left
    words = sys.argv[1:]
    results, started = Results(), time.monotonic()
    tried: set[str] = set()

    def to_do(kind: type[Ground]) -> list[list[Fault]]:
        """Return the runs that are left, with the faults that are left; each is tried once."""

        def is_left(title: str) -> bool:
            return all(word in title for word in words) and not results.is_good(title) and title not in tried

        runs = [[fault for fault in run if is_left(title_of(kind, fault))] for run in kind.runs]
        return [run for run in runs if run]

    for kind in GROUNDS:
        while runs := to_do(kind):
            strike_all(kind, runs, results)
            tried.update(title for title, result in results.done.items() if not result["good"])
    bad = [title for title, result in results.done.items() if not result["good"]]
    num, minutes = len(results.done), (time.monotonic() - started) / 60
    print(
        f"{num - len(bad)} of {num} ended as they must, in {minutes:.0f} minutes",
        f"not: {bad}" if bad else "",
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
