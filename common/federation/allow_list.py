"""The allow-list of what crosses a site's border, checked on both sides of it.

A report may hold exactly the tensors the order named, with their shapes and dtypes, and every
value finite. Anything else is refused before it counts: an extra tensor could carry a patient, a
NaN would spoil the global model for everyone.
"""

import math

from common.errors import RejectedReportError
from common.federation.messages import TrainOrder, TrainReport
from common.federation.tensor_check import first_difference, first_not_finite


def check_report(report: TrainReport, order: TrainOrder, private: bool = False) -> None:
    """Raise unless ``report`` answers ``order`` and holds only what may pass.

    Args:
        report: The report.
        order: What was asked.
        private: Whether the stage is trained under differential privacy: then no loss and no time may pass,
            and the ledger's proof must be there.

    Raises:
        RejectedReportError: Names the first thing that is wrong.
    """
    for what in ("study_digest", "site", "stage", "round_index"):
        asked, answered = getattr(order, what), getattr(report, what)
        if asked != answered:
            raise RejectedReportError(f"site {order.site}: {what} is {answered!r}, asked was {asked!r}")
    if not math.isfinite(report.seconds) or report.seconds < 0 or report.steps < 0:
        raise RejectedReportError(f"site {order.site}: steps or seconds out of range")
    if private and (report.metrics or report.seconds):
        raise RejectedReportError(f"site {order.site}: a private report holds metrics or a time")
    if private != (report.ledger is not None):
        raise RejectedReportError(f"site {order.site}: the ledger's proof is missing, or was not asked for")
    wrong = first_difference(report.parameters, order.parameters) or first_not_finite(report.parameters)
    if wrong is not None:
        raise RejectedReportError(f"site {order.site}: {wrong}")
