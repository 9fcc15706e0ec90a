"""What faults happen to: three federations of hosts, and how a round of each is judged.

small     three sites, a small model: every round must end with the weights of an undisturbed run
private   two sites under differential privacy: no ledger may know of less than what was done
large     a model of 200 MB (`large_ground`)
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
from tests.faults.faults import OF_A_PRIVATE_STUDY, OF_A_SMALL_MODEL, Fault
from tests.faults.moments import Round, StepWatch
from tests.faults.strikes import VICTIM
from tests.small_federation import (
    private_study,
    public_state,
    small_study,
    write_patient_table,
    write_volumes,
)

SAME, OTHER = "same weights", "other weights"
TRAINING = {"local_steps": 60, "batch_size": 2}
Verdict = tuple[bool, str]


class Ground:
    """A small federation; the others differ from it in what they say.

    Args:
        made: Its hosts, provisioned.
    """

    name = "small"
    sites = ("north", "south", "west")
    runs = OF_A_SMALL_MODEL
    stage, first = "codec", 2  # whose rounds are struck, from which on
    spare = 2  # rounds that may go by before the moment was seen
    tmpfs = ("runs", f"{VICTIM}/state")  # folders with disks of their own, that can be filled
    start_from: tuple = ()
    has_reference = True

    def __init__(self, made: Deployment) -> None:
        self.made = made
        self.undisturbed: dict[str, object] = {}

    @classmethod
    def study(cls, folder: Path, rounds: int) -> dict:
        """Return the study; what it starts from is put into the folder."""
        return _plain(
            small_study(
                cls.sites,
                codec__training={**TRAINING, "rounds": rounds},
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
        """Start everything."""
        for name in self.tmpfs:
            (self.made.folder / name).mkdir(parents=True, exist_ok=True)
            call("mount", "-t", "tmpfs", "-o", "size=1300m", "none", self.made.folder / name)
        for site in self.sites:
            self.made.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", 999)
        self.start()

    def start(self) -> None:
        """Start server and sites."""
        self.made.start_all()

    def close(self) -> None:
        """Give the folders' own disks back."""
        for name in self.tmpfs:
            subprocess.run(["umount", "-l", self.made.folder / name], check=False)

    def before(self, run: Path) -> None:
        """Make ready for a run."""

    def round(self, run: Path, index: int) -> Round:
        """Return a round that is to be struck."""
        return Round(run, self.made.folder / VICTIM, self.stage, index)

    def note(self, round_: Round) -> None:
        """Remember a round of the run that nothing happens to."""
        self.undisturbed.update(round_.states())

    def note_end(self, run: Path) -> None:
        """Remember how that run ended."""
        self.undisturbed["model"] = self._model(run)

    def pass_by(self, round_: Round) -> None:
        """Remember a round of another run that nothing happened to."""

    def verdict(self, fault: Fault, round_: Round) -> Verdict:
        """Return whether a round that is over ended as it must, and how."""
        states = round_.states()
        same = bool(states) and all(self.undisturbed[name] == state for name, state in states.items())
        return same, SAME if same else OTHER

    def last_verdict(self, run: Path) -> Verdict:
        """Return whether a run that is over ended as it must, and how."""
        same = self._model(run) == self.undisturbed["model"]
        return same, SAME if same else OTHER

    def _model(self, run: Path) -> str:
        words = ("study", "status", "--run", f"runs/{run.name}", "--json")
        return json.loads(self.made.fedvox("coordinator", *words))["model"]


class PrivateGround(Ground):
    """Two sites whose books are compared with what was done."""

    name = "private"
    sites = (VICTIM, "south")
    runs = OF_A_PRIVATE_STUDY
    stage = "diffusion"
    tmpfs = ()
    start_from = ("--start-from", "public")
    has_reference = False  # noise is never the same
    steps = 40
    seen: StepWatch | None = None

    @classmethod
    def study(cls, folder: Path, rounds: int) -> dict:
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
                    "spare_rounds": rounds,
                    "draws": 2,
                },
                diffusion__training={"rounds": rounds, "local_steps": cls.steps, "batch_size": 2},
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

    def verdict(self, fault: Fault, round_: Round) -> Verdict:
        """Compare what the victim's ledger says of a round with what was seen and what counted."""
        seen, paid = self.seen.steps_of(round_.index), self._paid(round_.index)
        good = (
            paid >= seen > 0
            and paid >= self.steps
            and VICTIM in self._sites_by_round(round_.run)[round_.index]
        )
        if fault.moment in ("reply", "aggregating", "checkpoint"):  # the answer lay on the disk
            good = good and paid == self.steps
        return good, f"{paid} steps paid for, {seen} seen, {self.steps} counted"

    def last_verdict(self, run: Path) -> Verdict:
        """Compare the whole of the books."""
        for site in self.sites:
            self.made.fedvox(site, "site", "ledger", "verify", f"{site}/site.yaml")
        rounds = self._sites_by_round(run)
        seen, counted = self.seen.end(), self.steps * sum(VICTIM in sites for sites in rounds.values())
        paid = self._paid()
        good = (
            paid >= seen > 0
            and paid >= counted
            and len(rounds) == self.made.study["diffusion"]["training"]["rounds"]
        )
        return good, f"{paid} steps paid for, {seen} seen, {counted} in {len(rounds)} rounds"

    def _paid(self, index: int | None = None) -> int:
        return reserved_steps(self.made.folder / VICTIM / "ledger" / "ledger.jsonl", index)

    @staticmethod
    def _sites_by_round(run: Path) -> dict[int, list[str]]:
        events = read_events(run / "events.jsonl")
        return {e["round"]: list(e["sites"]) for e in events if e["event"] == "round_finished"}


def _plain(study) -> dict:
    return study.model_dump(mode="json", exclude_none=True)


def reserved_steps(path: Path, index: int | None = None) -> int:
    """Return the steps that a ledger's lines reserve, read without the code that wrote them.

    Args:
        path: The ledger's lines.
        index: Of the round; None is all.
    """
    entries = [json.loads(line)["entry"] for line in path.read_text().splitlines()]
    reserved = [e for e in entries if e["kind"] == "RESERVE"]
    return sum(e["event"]["steps"] for e in reserved if index in (None, e["order"]["round_index"]))
