"""Break federations in every way of `faults.py`, one run each, and see what comes of it: `make faults`.

Hosts in network namespaces, as in `make e2e`. Prints a table; exit code 1 says that a run did not end as it
must. What ended well with this very code, these faults included, is not done again: build/faults.json
holds it. After a run that did not end well the federation is made anew.

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
from tests.faults.faults import Fault
from tests.faults.grounds import GROUNDS, Ground
from tests.faults.moments import wait_until
from tests.faults.strikes import MOST_S

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
        """Keep and print how a run ended."""
        self.done[title] = {"good": good, "found": found, "seconds": round(seconds)}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"code": self.code, "done": self.done}, indent=1))
        print(f"{'ok ' if good else 'BAD'} {seconds:4.0f} s  {title}: {found}", flush=True)


def title_of(ground: type[Ground], fault: Fault) -> str:
    return f"{ground.name}: {fault.title}"


def disturbed(ground: Ground, fault: Fault, index: int) -> tuple[bool, str]:
    """Run the study and let the fault happen; return whether it ended as it must, and how."""
    made = ground.made
    run = made.folder / "runs" / f"fault-{index:02d}"
    ground.before(run)
    struck = ground.watch(run)
    process = made.run_study(run.name, *ground.start_from).process
    wait_until(lambda: struck.is_there(fault.moment) or process.poll() is not None, 200, fault.moment)
    if process.poll() is not None:
        return False, f"the run was over before {fault.moment}"
    fault.strike(made, run)
    process = made.running["study"].process  # a strike may have started it again
    give_up = time.monotonic() + MOST_S
    while process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.2)
    if process.poll() is None:
        made.running["study"].kill()
        return False, f"not over after {MOST_S:.0f} s"
    if process.returncode != 0:
        return False, made.running["study"].log.read_text(errors="replace").strip().splitlines()[-1]
    return ground.verdict(fault, run)


def strike_all(kind: type[Ground], faults: list[tuple[int, Fault]], results: Results) -> int:
    """Let faults happen to a federation, until one does not end well; return how many happened."""
    with tempfile.TemporaryDirectory(prefix=f"faults-{kind.name}-") as name:
        folder = Path(name)
        with hospitals(folder, kind.study(folder)) as made:
            ground, num = kind(made), 0
            try:
                ground.open()
                for index, fault in faults:
                    started = time.monotonic()
                    try:
                        good, found = disturbed(ground, fault, index)
                    except Exception as error:
                        good, found = False, f"{type(error).__name__}: {error}"
                    results.note(title_of(kind, fault), good, found, time.monotonic() - started)
                    num += 1
                    if not good:
                        break
            finally:
                try:
                    made.stop()
                finally:
                    ground.close()
    return num


def main() -> int:
    """Do what is not done yet; return the exit code."""
    if not CAN_HAVE_HOSTS:
        print("skipped: needs root, ip (iproute2) and nginx")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or hosts and mounts would be left
    words = sys.argv[1:]
    results, started = Results(), time.monotonic()
    if not any(all(w in title_of(kind, fault) for w in words) for kind in GROUNDS for fault in kind.faults):
        print("no fault of that name")
        return 2
    for kind in GROUNDS:
        named = [(index, fault, title_of(kind, fault)) for index, fault in enumerate(kind.faults)]
        wanted = [(i, f) for i, f, t in named if all(word in t for word in words) and not results.is_good(t)]
        while wanted:
            wanted = wanted[strike_all(kind, wanted, results) :]
    bad = [title for title, result in results.done.items() if not result["good"]]
    num, minutes = len(results.done), (time.monotonic() - started) / 60
    print(
        f"{num - len(bad)} of {num} ended as they must, in {minutes:.0f} minutes",
        f"not: {bad}" if bad else "",
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
