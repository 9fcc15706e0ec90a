"""The allow-list of what crosses a site's border, checked on both sides of it.

A report may hold exactly the tensors the order named, with their shapes and dtypes, and every
value finite. Anything else is refused before it counts: an extra tensor could carry a patient, a
NaN would spoil the global model for everyone.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from common.errors import RejectedReportError
from common.federation.messages import TrainOrder, TrainReport


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
    _check_tensors(order.site, report.parameters, order.parameters)


def _check_tensors(site: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if given.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        raise RejectedReportError(f"site {site}: tensors missing {missing[:3]}, not asked for {extra[:3]}")
    for name, reference in expected.items():
        tensor = given[name]
        if tensor.shape != reference.shape or tensor.dtype != reference.dtype:
            raise RejectedReportError(
                f"site {site}: tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"expected {tuple(reference.shape)} {reference.dtype}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise RejectedReportError(f"site {site}: tensor {name} is not finite")
