"""Which faults happen, at which moment of a round, and what must come of them."""

from dataclasses import dataclass

from tests.faults import strikes
from tests.faults.strikes import PROCESSES, Strike, cut, kill

MOMENTS = ("transit", "training", "reply", "aggregating", "checkpoint")


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


def killed(name: str, moment: str) -> Fault:
    """Return a kill of a process."""
    return Fault(f"kill -9 of the {name}", moment, kill(name))


OF_A_SMALL_MODEL = (
    *(killed(name, moment) for name in PROCESSES for moment in MOMENTS),
    Fault("link cut for 20 s", "training", cut(20)),
    Fault("link cut for 90 s", "transit", cut(90)),
    Fault("link cut for 20 s", "reply", cut(20)),
    Fault("200 ms of round trip and 5 % of loss", "transit", strikes.bad_line),
    Fault("a site ten times slower", "transit", strikes.slow_down),
    Fault("database locked for 20 s", "training", strikes.lock_database),
    Fault("certificate expired for 30 s", "training", strikes.expire),
    Fault("clock a day ahead for 30 s", "training", strikes.skew_clock),
    Fault("disk full at a site", "transit", strikes.fill_site_disk),
    Fault("disk full at the server", "training", strikes.fill_server_disk),
)

OF_A_PRIVATE_STUDY = (
    *(killed("agent", moment) for moment in MOMENTS),
    killed("driver", "aggregating"),
    killed("SuperLink", "reply"),
    Fault("link cut for 20 s", "reply", cut(20)),
)

# One Flower object has 1 MiB; a whole transfer, and what the protocols add, are a little more than the model.
A_PART, ONCE_MORE = 0.15, 1.05
OF_A_LARGE_MODEL = (
    Fault("link cut for 100 s", "order at 90 %", cut(100), A_PART),
    Fault("link cut for 100 s", "reply at 90 %", cut(100), A_PART),
    Fault("link cut for 240 s", "reply at 90 %", cut(240), ONCE_MORE),
    Fault("kill -9 of the SuperNode", "order at 90 %", kill("SuperNode"), ONCE_MORE),
    Fault("kill -9 of the SuperNode", "reply at 90 %", kill("SuperNode"), ONCE_MORE),
)
