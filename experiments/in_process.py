"""Sites called directly, one after another: for tests and for experiments without Ray."""

from collections.abc import Mapping, Sequence

from client.site import Site
from common.federation.messages import TrainOrder
from common.federation.wire import (
    num_bytes,
    order_from_records,
    order_to_records,
    report_from_records,
    report_to_records,
)
from server.transport import Exchange


class InProcessTransport:
    """Runs every order in this process, through the same wire form as Flower would.

    Args:
        sites: The sites by name.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:  # noqa: ARG002
        """Return all reports; a direct call has no deadline to miss."""
        reports, down, up = [], 0, 0
        for order in orders:
            sent = order_to_records(order)
            answered = report_to_records(self.sites[order.site].execute(order_from_records(sent)))
            reports.append(report_from_records(answered))
            down, up = down + num_bytes(sent), up + num_bytes(answered)
        return Exchange(reports, down, up)
