"""A federation with a model of 200 MB: little of it may cross the line twice; nothing is trained twice."""

from dataclasses import dataclass
from pathlib import Path

import torch

from client.site import Site
from client.site_config import Compute, load_site_config
from common.federation.messages import TrainOrder, TrainReport
from common.frozen import parse
from common.study import Study
from experiments.in_process import InProcessTransport
from server.rounds import RunRecords, run_study
from server.run_folder import RunFolder
from tests.e2e.hosts import Deployment
from tests.e2e.light_site import honest_report
from tests.faults.faults import OF_A_LARGE_MODEL, Fault
from tests.faults.grounds import Ground, Verdict
from tests.faults.moments import Line, Round
from tests.faults.strikes import VICTIM


class LargeGround(Ground):
    """A model of 200 MB, a real site, and one that only answers."""

    name = "large"
    sites = (VICTIM, "south")
    runs = OF_A_LARGE_MODEL
    # Nothing happens to the third round: it says how many bytes cross the line. In earlier ones half of an
    # order is one piece over and over, which Flower sends once: layers that begin as zeros get their first
    # gradient in the second round.
    first, spare = 4, 1
    tmpfs = ()
    has_reference = False  # of its own: see `open`

    def __init__(self, made: Deployment) -> None:
        super().__init__(made)
        self.usual: list[tuple[int, int]] = []  # bytes down and up, of rounds that nothing happened to
        self.agent_log_size = 0

    @classmethod
    def study(cls, folder: Path, rounds: int) -> dict:
        small = Ground.study(folder, rounds)
        small["codec"]["model"] |= {"channels": 688, "num_res_blocks": 1}
        for stage in ("codec", "diffusion"):
            small[stage]["training"]["local_steps"] = 1
        return small | {"federation": cls.federation(round_deadline_s=1000)}

    def open(self) -> None:
        """Train undisturbed first, without hosts and lines: these take most of a round's time."""
        torch.set_num_threads(1)  # as the hosts' programs have, for the same bits
        study = parse(Study, self.made.study, where="study.yaml")
        config = load_site_config(self.made.folder / VICTIM / "site.yaml").model_copy(
            update={"state": self.made.folder / "undisturbed", "compute": Compute(threads=1)}
        )
        run = RunFolder.create_or_resume(self.made.folder / "runs" / "undisturbed", study, {})
        sites = {VICTIM: Site(config, study), "south": _LightSite(study)}
        run_study(
            study,
            InProcessTransport(sites),
            RunRecords.of(run),
            after_round=lambda _: self.note(Round(run.path, self.made.folder / VICTIM, self.stage, 1)),
        )
        self.note_end(run.path)
        super().open()

    def start(self) -> None:
        """The other site is a light one: its training would only take time."""
        self.made.start_server()
        self.made.start_agent(VICTIM)
        self.made.start_connection(VICTIM)
        self.made.start_light("south", "honest")

    def before(self, run: Path) -> None:
        self.agent_log_size = len(self._agent_log())

    def round(self, run: Path, index: int) -> Round:
        """The line's bytes count from the end of the round before."""
        line = Line(self.made.hosts.outside(VICTIM))
        return Round(run, self.made.folder / VICTIM, self.stage, index, line)

    def pass_by(self, round_: Round) -> None:
        if round_.index >= self.first - 1:
            self.usual.append((round_.line.down, round_.line.up))

    def verdict(self, fault: Fault, round_: Round) -> Verdict:
        """Compare the bytes that crossed the victim's line, each way, with the fewest without a fault."""
        down, up = (min(each) for each in zip(*self.usual, strict=True))
        now_down, now_up = round_.line.down, round_.line.up
        resent = max(now_down - down, now_up - up) / round_.size
        lines = self._agent_log()[self.agent_log_size :].splitlines()
        trained = sum(f"{self.stage} round {round_.index}," in line and ": begun" in line for line in lines)
        same, words = super().verdict(fault, round_)
        good = same and resent <= fault.most_resent and trained == 1
        sizes = (round_.size, now_down, down, now_up, up)
        said = "{:.0f} MB: {:.0f} down, usually {:.0f}, {:.0f} up, usually {:.0f}".format(
            *(n / 1e6 for n in sizes)
        )
        return good, f"{words}, {resent:.1%} sent again ({said}), trained {trained} times"

    def _agent_log(self) -> str:
        return (self.made.folder / f"{VICTIM}-agent.log").read_text(errors="replace")


@dataclass(frozen=True)
class _LightSite:
    """What an honest `tests.e2e.light_site` is on a host."""

    study: Study

    def execute(self, order: TrainOrder) -> TrainReport:
        return honest_report(order, self.study.schedule_of(order.stage).local_steps)
