"""Break a federation in every way of `faults.py`, one run each, and see what comes of it: `make faults`.

Four hosts in network namespaces, as in `make e2e`. Prints a table; exit code 1 says that a run did not end as
it must. What is done with this very code is not done again: build/faults.json holds it.

    python -m tests.faults.run [WORD...]     only faults whose titles hold all words
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.code_digest import code_digest
from tests.e2e.hosts import CAN_HAVE_HOSTS, Deployment, call, hospitals
from tests.faults.faults import FAULTS, SAME, VICTIM, Fault
from tests.faults.moments import Round, wait_until
from tests.small_federation import small_study

SITES = ("north", "south", "west")
RESULTS = Path("build") / "faults.json"
TRAINING = {"rounds": 3, "local_steps": 120, "batch_size": 2}
MOST_S = 600.0  # that a run may take, fault included
TMPFS = ("runs", f"{VICTIM}/state")  # folders with disks of their own, that can be filled


def study():
    return small_study(
        SITES,
        codec__training=TRAINING,
        codec__model__discriminator=None,
        diffusion__training={**TRAINING, "rounds": 1},
        federation={"sites": list(SITES), "round_deadline_s": 300, "round_attempts": 5},
    ).model_dump(mode="json", exclude_none=True)


class Ground:
    """A federation that faults happen to, and how it ends undisturbed."""

    def __init__(self, made: Deployment) -> None:
        self.made = made
        for name in TMPFS:
            (made.folder / name).mkdir(parents=True, exist_ok=True)
            call("mount", "-t", "tmpfs", "-o", "size=1300m", "none", made.folder / name)
        for site in SITES:
            self.made.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", 999)
        self.made.start_all()
        self.undisturbed = self.run("undisturbed", None)

    def run(self, name: str, fault: Fault | None) -> str:
        """Run the study, disturbed by a fault; return the digest of its model, or why there is none."""
        run = self.made.folder / "runs" / name
        words = ("study", "run", "study.yaml", "--server", "--port", 8000, "--name", name, "--json")
        process = self.made.start("coordinator", "study", *words).process
        if fault is not None:
            struck = Round(run, self.made.folder / VICTIM)
            now_or_over = lambda: struck.is_there(fault.moment) or process.poll() is not None  # noqa: E731
            wait_until(now_or_over, 200, fault.moment)
            fault.strike(self.made, run)
        give_up = time.monotonic() + MOST_S
        while process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.2)
        if process.poll() is None:
            process.kill()
            return f"not over after {MOST_S:.0f} s"
        if process.returncode != 0:
            return self.made.running["study"].log.read_text(errors="replace").strip().splitlines()[-1]
        status = self.made.fedvox("coordinator", "study", "status", "--run", f"runs/{name}", "--json")
        return json.loads(status)["model"]


def main() -> int:
    """Do what is not done yet; return the exit code."""
    if not CAN_HAVE_HOSTS:
        print("skipped: needs root, ip (iproute2) and nginx")
        return 0
    words = sys.argv[1:]
    code = code_digest()
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    done = known.get("done", {}) if known.get("code") == code else {}
    wanted = [fault for fault in FAULTS if all(word in fault.title for word in words)]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, hospitals(Path(folder), study()) as made:
        try:
            ground = Ground(made)
            for index, fault in enumerate(wanted):
                if done.get(fault.title, {}).get("good"):
                    continue
                started = time.monotonic()
                found = ended(ground, fault, index)
                good, seconds = found == fault.outcome, round(time.monotonic() - started)
                done[fault.title] = {"good": good, "found": found, "seconds": seconds}
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps({"code": code, "done": done}, indent=1))
                print(f"{'ok ' if good else 'BAD'} {seconds:4d} s  {fault.title}: {found}", flush=True)
        finally:
            made.stop()
            for name in TMPFS:
                subprocess.run(["umount", "-l", Path(folder) / name], check=False)
    bad = [title for title, result in done.items() if not result["good"]]
    print(f"{len(done) - len(bad)} of {len(done)} ended as they must", f"not: {bad}" if bad else "")
    return 1 if bad else 0


def ended(ground: Ground, fault: Fault, index: int) -> str:
    """Return how a run with a fault ended, in the words of `Fault.outcome`."""
    try:
        found = ground.run(f"fault-{index:02d}", fault)
    except (TimeoutError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return SAME if found == ground.undisturbed else found


if __name__ == "__main__":
    sys.exit(main())
