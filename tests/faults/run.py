"""Break federations in every way of `faults.py` and see what comes of it: `make faults`.

Hosts in network namespaces, as in `make e2e`. In every run of a study several faults happen, one in a round,
and each round is judged. Prints a table; exit code 1 says that something did not end as it must. What ended
well with this very code, these faults included, is not done again: build/faults/ holds it. After a run
that did not end well its logs are kept, in build/faults/logs/, and the federation is made anew.

    python -m tests.faults.run [WORD...]     only faults whose ground and title hold all words
"""

import json
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from common.code_digest import code_digest
from tests.e2e.hosts import CAN_HAVE_HOSTS, hospitals
from tests.faults.course import Course
from tests.faults.faults import Fault
from tests.faults.grounds import Ground, PrivateGround
from tests.faults.large_ground import LargeGround

RESULTS = Path("build") / "faults"
# Side by side: most of the time they wait, for Flower to notice what has happened.
LANES: tuple[tuple[type[Ground], ...], ...] = ((Ground,), (PrivateGround, LargeGround))
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
    """What was done to one federation with this very code, kept from call to call."""

    def __init__(self, kind: type[Ground]) -> None:
        self.code = code_digest(CODE)
        self.path = RESULTS / f"{kind.name}.json"
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        done = known.get("done", {}) if known.get("code") == self.code else {}
        self.done = {title: result for title, result in done.items() if result["good"]}

    def note(self, title: str, good: bool, found: str, seconds: float) -> None:
        """Keep and print how a fault ended."""
        self.done[title] = {"good": good, "found": found, "seconds": round(seconds)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"code": self.code, "done": self.done}, indent=1))
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
        with hospitals(folder, kind.study(folder, rounds), bridge=f"fv{kind.name[0]}") as made:
            ground, good = kind(made), False
            try:
                ground.open()
                if kind.has_reference:
                    Course(ground, "undisturbed").note_all()
                good = all(
                    strike_run(ground, f"struck-{index}", faults, results)
                    for index, faults in enumerate(runs)
                )
            finally:
                if not good:
                    keep_logs(kind, folder)
                try:
                    made.stop()
                finally:
                    ground.close()


def keep_logs(kind: type[Ground], folder: Path) -> None:
    """Keep what a federation's processes said, gone with its folder otherwise: why it did not end well."""
    kept = RESULTS / "logs" / kind.name
    shutil.rmtree(kept, ignore_errors=True)
    for file in (*folder.glob("*.log"), *folder.glob("runs/*/events.jsonl")):
        copy = kept / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    print(f"       {kind.name}: what its processes said is in {kept}", flush=True)


def work_off(kinds: tuple[type[Ground], ...], words: list[str]) -> None:
    """Do what is left of some federations, one after the other; each fault is tried once."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or hosts and mounts would be left
    for kind in kinds:
        results = Results(kind)
        while left := [title for title in titles_of(kind, words) if title not in results.done]:
            runs = [[fault for fault in run if title_of(kind, fault) in left] for run in kind.runs]
            strike_all(kind, [run for run in runs if run], results)


def titles_of(kind: type[Ground], words: list[str]) -> list[str]:
    """Return the titles of a federation's faults that hold all words."""
    titles = [title_of(kind, fault) for run in kind.runs for fault in run]
    return [title for title in titles if all(word in title for word in words)]


def main() -> int:
    """Do what is not done yet; return the exit code."""
    if not CAN_HAVE_HOSTS:
        print("skipped: needs root, ip (iproute2) and nginx")
        return 0
    words, started = sys.argv[1:], time.monotonic()
    titles = {kind: titles_of(kind, words) for lane in LANES for kind in lane}
    num = sum(map(len, titles.values()))
    if not num:
        print("no fault of that name")
        return 2
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work_off, args=(lane, words)) for lane in LANES]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    bad = [title for kind, named in titles.items() for title in named if title not in Results(kind).done]
    minutes = (time.monotonic() - started) / 60
    print(f"{num - len(bad)} of {num} ended as they must, in {minutes:.0f} minutes")
    if bad:
        print("not:", *bad, sep="\n  ")
    is_well = not bad and not any(worker.exitcode for worker in workers)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
