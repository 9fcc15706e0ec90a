"""One site's order in a round, and where the talk about it stands."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from common.federation.messages import Report
from common.federation.packet import Packet

ANSWER_S = 90.0  # within which a message is answered: a minute at the agent, some seconds for Flower
SITE_LINE, OWN_LINE = 1e6, 1e7  # bytes a second that a site has at least, and the coordinator for all of them
MOST_LOST = 5  # messages about one order in a row, before its site counts as gone; while it is online
MOST_SENT = 5  # times that a site is sent one order: it may lose it, but not ask for it for ever


@dataclass
class Errand:
    """One site's order.

    Attributes:
        order: The sealed order.
        order_id: Its name.
        due: When to send something, by the monotonic clock; never while something is on its way.
        whole: Whether to send the order, or only to ask after it.
        message: What is on its way.
        earlier: What counts as lost; a report that is the answer to it may come yet, over a slow line.
        lost_at: When ``message`` counts as lost.
        lost: Messages that were lost in a row.
        sent: Times that the whole order was sent.
        offline_since: When the site was first found offline; None while it is online.
        report: What came of it.
    """

    order: Packet
    order_id: str
    due: float = 0.0
    whole: bool = True
    message: str | None = None
    earlier: list[str] = field(default_factory=list)
    lost_at: float = math.inf
    lost: int = 0
    sent: int = 0
    offline_since: float | None = None
    report: Report | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent: there is a report, or the site counts as gone."""
        too_often = self.whole and self.sent >= MOST_SENT and self.message is None
        return self.report is not None or self.lost >= MOST_LOST or too_often

    def wait_no_more(self) -> None:
        """Take what is on its way for lost."""
        if self.message is not None:
            self.earlier.append(self.message)
        self.message = None


def answer_s(errand: Errand, errands: Collection[Errand]) -> float:
    """Return how long an answer may take: whatever is asked about an order, the report may be the answer."""
    own, together = errand.order.num_bytes, sum(each.order.num_bytes for each in errands)
    return ANSWER_S + 2 * (own / SITE_LINE + together / OWN_LINE)
