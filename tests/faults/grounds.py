"""What faults happen to: three federations of hosts, and how a run of each is judged.

small     three sites, a small model: it must end with the weights of an undisturbed run
private   two sites under differential privacy: no ledger may know of less than what was done
large     a model of 200 MB: of it, too, little may cross the line twice, and nothing is trained twice
"""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

from server.checkpoint import CheckpointStore
from server.events import read_events
from server.run_folder import RunFolder
from tests.e2e.hosts import Deployment, call
from tests.faults.faults import OF_A_LARGE_MODEL, OF_A_PRIVATE_STUDY, OF_A_SMALL_MODEL, Fault
from tests.faults.moments import Line, Round, StepWatch
from tests.faults.strikes import VICTIM
from tests.small_federation import (
    private_study,
    public_state,
    small_study,
    write_patient_table,
    write_volumes,
)

SAME = "same weights"
TRAINING = {"local_steps": 60, "batch_size": 2}


class Ground:
    """A small federation; the others differ from it in what they say.

    Args:
        made: Its hosts, provisioned.
    """

    name = "small"
    sites = ("north", "south", "west")
    faults = OF_A_SMALL_MODEL
    struck = ("codec", 2)  # stage and round
    tmpfs = ("runs", f"{VICTIM}/state")  # folders with disks of their own, that can be filled
    start_from: tuple = ()

    def __init__(self, made: Deployment) -> None:
        self.made = made
        self.undisturbed = ""

    @classmethod
    def study(cls, folder: Path) -> dict:
        """Return the study; what it starts from is put into the folder."""
        return _plain(
            small_study(
                cls.sites,
                codec__training={**TRAINING, "rounds": 3},
                codec__model__discriminator=None,
                diffusion__training={**TRAINING, "rounds": 1},
                federation=cls.federation(),
            )
        )

    @classmethod
    def federation(cls, round_deadline_s: float = 300) -> dict:
        """Return the study's block of that name."""
        return {"sites": list(cls.sites), "round_deadline_s": round_deadline_s, "round_attempts": 5}

    def open(self) -> None:
        """Start everything, and see how a run ends that nothing happens to."""
        for name in self.tmpfs:
            (self.made.folder / name).mkdir(parents=True, exist_ok=True)
            call("mount", "-t", "tmpfs", "-o", "size=1300m", "none", self.made.folder / name)
        for site in self.sites:
            self.made.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", 999)
        self.start()
        run = self.made.folder / "runs" / "undisturbed"
        self.before(run)
        self.made.run_study(run.name, *self.start_from)
        self.made.finished(600)
        self.note(run)

    def start(self) -> None:
        """Start server and sites."""
        self.made.start_all()

    def close(self) -> None:
        """Give the folders' own disks back."""
        for name in self.tmpfs:
            subprocess.run(["umount", "-l", self.made.folder / name], check=False)

    def before(self, run: Path) -> None:
        """Make ready for a run."""

    def note(self, run: Path) -> None:
        """Remember how the undisturbed run ended."""
        self.undisturbed = self.model(run)

    def watch(self, run: Path) -> Round:
        """Return what tells the moments of the round that is struck."""
        return Round(run, self.made.folder / VICTIM, *self.struck)

    def verdict(self, fault: Fault, run: Path) -> tuple[bool, str]:
        """Return whether a finished run ended as it must, and how."""
        same = self.model(run) == self.undisturbed
        return same, SAME if same else "other weights"

    def model(self, run: Path) -> str:
        """Return the digest of a run's model."""
        words = ("study", "status", "--run", f"runs/{run.name}", "--json")
        return json.loads(self.made.fedvox("coordinator", *words))["model"]


class PrivateGround(Ground):
    """Two sites whose books are compared with what was done."""

    name = "private"
    sites = (VICTIM, "south")
    faults = OF_A_PRIVATE_STUDY
    struck = ("diffusion", 2)
    tmpfs = ()
    start_from = ("--start-from", "public")
    rounds, steps = 3, 40
    seen: StepWatch | None = None

    @classmethod
    def study(cls, folder: Path) -> dict:
        for seed, site in enumerate(cls.sites):
            write_patient_table(write_volumes(folder / "data" / site, 6, seed))
        public, state = small_study(("public",)), public_state()
        store = CheckpointStore(RunFolder(folder / "public").checkpoints, public.digest)
        RunFolder.create_or_resume(folder / "public", public, {})
        store.save(dataclasses.replace(state, round_index=public.diffusion.training.rounds))
        return _plain(
            private_study(
                state,
                cls.sites,
                stage={
                    "sampling_rate": 0.5,
                    "nominal_patients": 6,
                    "noise_multiplier": 40.0,
                    "spare_rounds": 2,
                    "draws": 2,
                },
                diffusion__training={"rounds": cls.rounds, "local_steps": cls.steps, "batch_size": 2},
                federation=cls.federation(),
            )
        )

    def before(self, run: Path) -> None:
        """Let every run begin with empty ledgers: all runs are of one study, which pays for few rounds."""
        if self.seen is not None:
            self.seen.end()
        for site in self.sites:
            self.made.running[f"{site}-agent"].stop()
            shutil.rmtree(self.made.folder / site / "ledger")
            self.made.fedvox(site, "site", "ledger", "create", f"{site}/site.yaml")
            self.made.start_agent(site)
        self.seen = StepWatch(self.made.folder / VICTIM)

    def verdict(self, fault: Fault, run: Path) -> tuple[bool, str]:
        """Compare the victim's ledger with the rounds that counted and with the steps that were seen."""
        made = self.seen.end()
        for site in self.sites:
            self.made.fedvox(site, "site", "ledger", "verify", f"{site}/site.yaml")
        counted = [e for e in read_events(run / "events.jsonl") if e["event"] == "round_finished"]
        left = sum(self.steps for event in counted if VICTIM in event["sites"])
        paid = reserved_steps(self.made.folder / VICTIM / "ledger" / "ledger.jsonl")
        good = paid >= max(made, left) and made > 0 and len(counted) == self.rounds
        if fault.moment in ("reply", "aggregating", "checkpoint"):  # the answer lay on the disk
            good = good and paid == left
        return good, f"{paid} steps paid for, {made} seen, {left} in {len(counted)} rounds"


class LargeGround(Ground):
    """A model of 200 MB, a real site, and one that only answers."""

    name = "large"
    sites = (VICTIM, "south")
    faults = OF_A_LARGE_MODEL
    struck = ("codec", 1)
    tmpfs = ()

    @classmethod
    def study(cls, folder: Path) -> dict:
        small, once = Ground.study(folder), {**TRAINING, "local_steps": 1, "rounds": 1}
        small["codec"]["model"] |= {"channels": 688, "num_res_blocks": 1}
        for stage in ("codec", "diffusion"):
            small[stage]["training"] |= once
        return small | {"federation": cls.federation(round_deadline_s=1000)}

    def start(self) -> None:
        """The other site is a light one: its training would only take time."""
        self.made.start_server()
        self.made.start_agent(VICTIM)
        self.made.start_connection(VICTIM)
        self.made.start_light("south", "honest")

    def before(self, run: Path) -> None:
        self.line = Line(self.made.hosts.names.index(VICTIM))
        self.trained = self._trainings()

    def note(self, run: Path) -> None:
        super().note(run)
        self.usual = (self.line.down, self.line.up)

    def watch(self, run: Path) -> Round:
        return Round(run, self.made.folder / VICTIM, *self.struck, line=self.line)

    def verdict(self, fault: Fault, run: Path) -> tuple[bool, str]:
        """Compare the bytes that crossed the victim's line, both ways, with those of an undisturbed run."""
        size = self.watch(run).size
        resent = max(self.line.down - self.usual[0], self.line.up - self.usual[1]) / size
        trained = self._trainings() - self.trained
        same, words = super().verdict(fault, run)
        good = same and resent <= fault.most_resent and trained == len(("codec", "diffusion"))
        return good, f"{words}, {resent:.1%} of {size / 1e6:.0f} MB sent again, {trained} orders trained"

    def _trainings(self) -> int:
        return (self.made.folder / f"{VICTIM}-agent.log").read_text(errors="replace").count(": begun")


GROUNDS = (Ground, PrivateGround, LargeGround)


def _plain(study) -> dict:
    return study.model_dump(mode="json", exclude_none=True)


def reserved_steps(path: Path) -> int:
    """Return the steps that a ledger's lines reserve, read without the code that wrote them."""
    entries = [json.loads(line)["entry"] for line in path.read_text().splitlines()]
    return sum(entry["event"]["steps"] for entry in entries if entry["kind"] == "RESERVE")
