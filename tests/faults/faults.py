"""Which faults happen, at which moment of a round, and what must come of them."""

from dataclasses import dataclass

from tests.faults import strikes
from tests.faults.strikes import PROCESSES, Strike, cut, kill


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: What.
        moment: When.
        strike: Does it, and mends what nobody else would.
        most_resent: Share of the model that may cross the site's line once more.
    """

    name: str
    moment: str
    strike: Strike
    most_resent: float = 0.0

    @property
    def title(self) -> str:
        """Name and moment."""
        return f"{self.name}, {self.moment}"


Runs = tuple[tuple[Fault, ...], ...]
"""The faults that happen to each run of a study, one in a round."""


def killed(name: str, moment: str) -> Fault:
    """Return a kill of a process."""
    return Fault(f"kill -9 of the {name}", moment, kill(name))


# By moment: every process dies then, and two other things happen. A driver dies but once in a run: it is
# started again three times.
_AND_TWO = {
    "transit": (
        Fault("link cut for 90 s", "transit", cut(90)),
        Fault("a site ten times slower", "transit", strikes.slow_down),
    ),
    "training": (
        Fault("link cut for 20 s", "training", cut(20)),
        Fault("database locked for 20 s", "training", strikes.lock_database),
    ),
    "reply": (
        Fault("link cut for 20 s", "reply", cut(20)),
        Fault("200 ms of round trip and 5 % of loss", "transit", strikes.bad_line),
    ),
    "aggregating": (
        Fault("certificate expired for 30 s", "training", strikes.expire),
        Fault("clock a day ahead for 30 s", "training", strikes.skew_clock),
    ),
    "checkpoint": (
        Fault("disk full at a site", "transit", strikes.fill_site_disk),
        Fault("disk full at the server", "training", strikes.fill_server_disk),
    ),
}
OF_A_SMALL_MODEL: Runs = tuple(
    (*(killed(name, moment) for name in PROCESSES), *others) for moment, others in _AND_TWO.items()
)

OF_A_PRIVATE_STUDY: Runs = (
    (
        *(killed("agent", moment) for moment in _AND_TWO),
        killed("driver", "aggregating"),
        killed("SuperLink", "reply"),
        Fault("link cut for 20 s", "reply", cut(20)),
    ),
)

# One Flower object has 1 MiB; a whole transfer, and what the protocols add, are a little more than the model.
A_PART, ONCE_MORE = 0.15, 1.05
OF_A_LARGE_MODEL: Runs = (
    (
        Fault("link cut for 100 s", "order at 90 %", cut(100), A_PART),
        Fault("link cut for 100 s", "reply at 90 %", cut(100), A_PART),
        Fault("link cut for 240 s", "reply at 90 %", cut(240), ONCE_MORE),
        Fault("kill -9 of the SuperNode", "order at 90 %", kill("SuperNode"), ONCE_MORE),
        Fault("kill -9 of the SuperNode", "reply at 90 %", kill("SuperNode"), ONCE_MORE),
    ),
)
