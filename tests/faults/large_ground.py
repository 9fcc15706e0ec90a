"""A federation with a model of 200 MB: little of it may cross the line twice; nothing is trained twice."""

from pathlib import Path

from tests.e2e.hosts import Deployment
from tests.faults.faults import OF_A_LARGE_MODEL, Fault
from tests.faults.grounds import Ground, Verdict
from tests.faults.moments import Line, Round
from tests.faults.strikes import VICTIM


class LargeGround(Ground):
    """A model of 200 MB, a real site, and one that only answers."""

    name = "large"
    sites = (VICTIM, "south")
    runs = OF_A_LARGE_MODEL
    # Before, half of an order is one piece over and over, which Flower sends once: layers that begin as zeros
    # get their first gradient in the second round.
    first, spare = 3, 1
    tmpfs = ()

    def __init__(self, made: Deployment) -> None:
        super().__init__(made)
        self.usual: dict[int, tuple[int, int]] = {}  # bytes down and up, by round
        self.agent_log_size = 0

    @classmethod
    def study(cls, folder: Path, rounds: int) -> dict:
        small = Ground.study(folder, rounds)
        small["codec"]["model"] |= {"channels": 688, "num_res_blocks": 1}
        for stage in ("codec", "diffusion"):
            small[stage]["training"]["local_steps"] = 1
        return small | {"federation": cls.federation(round_deadline_s=1000)}

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

    def note(self, round_: Round) -> None:
        self.usual[round_.index] = (round_.line.down, round_.line.up)
        super().note(round_)

    def verdict(self, fault: Fault, round_: Round) -> Verdict:
        """Compare the bytes that crossed the victim's line, each way, with the fewest without a fault."""
        usual = [both for index, both in self.usual.items() if index >= self.first]
        down, up = (min(each) for each in zip(*usual, strict=True))
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
