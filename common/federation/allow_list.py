"""The allow-list of what crosses a site's border, checked on both sides of it.

A report may hold exactly the tensors the order named, with their shapes and dtypes, every value finite, and
none of it further away than training can take it. Anything else is refused before it counts: an extra
tensor could carry a patient, a NaN or a huge number would spoil the global model for everyone.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import RejectedReportError
from common.federation.messages import TrainOrder, TrainReport
from common.federation.tensor_check import first_difference, first_not_finite

_FURTHEST = 1e3  # times the norm of the model, or of numbers of size one where the model is smaller
_ROUNDING = 1e-3


@dataclass(frozen=True)
class ReportRules:
    """What a study says of every report of a stage.

    Attributes:
        steps: Local steps of a round.
        private: Whether the stage is trained under differential privacy: then no loss and no time may pass,
            and the ledger's proof must be there.
        furthest: Largest norm of what a private report changes; None where only the model's size limits it.
        counts: Name of the tensor that counts how often codes are chosen, if there is one.
    """

    steps: int
    private: bool = False
    furthest: float | None = None
    counts: str | None = None


def check_report(report: TrainReport, order: TrainOrder, rules: ReportRules) -> None:
    """Raise unless ``report`` answers ``order`` and holds only what may pass.

    Args:
        report: The report.
        order: What was asked.
        rules: What the study says of it.

    Raises:
        RejectedReportError: Names the first thing that is wrong.
    """
    wrong = (
        _wrong_header(report, order, rules)
        or first_difference(report.parameters, order.parameters)
        or first_not_finite(report.parameters)
        or _wrong_counts(report.parameters, order.parameters, rules.counts)
        or _too_far(report.parameters, order.parameters, rules.furthest)
    )
    if wrong is not None:
        raise RejectedReportError(f"site {order.site}: {wrong}")


def _wrong_header(report: TrainReport, order: TrainOrder, rules: ReportRules) -> str | None:
    for what in ("study_digest", "site", "stage", "round_index"):
        asked, answered = getattr(order, what), getattr(report, what)
        if asked != answered:
            return f"{what} is {answered!r}, asked was {asked!r}"
    if report.steps != rules.steps:
        return f"{report.steps} steps, the study makes {rules.steps}"
    if not math.isfinite(report.seconds) or report.seconds < 0:
        return "seconds out of range"
    if rules.private and (report.metrics or report.seconds):
        return "a private report holds metrics or a time"
    if rules.private != (report.ledger is not None):
        return "the ledger's proof is missing, or was not asked for"
    return None


def _wrong_counts(given: Mapping[str, Tensor], asked: Mapping[str, Tensor], name: str | None) -> str | None:
    """Return what is wrong with counts, which are relative: their total never changes."""
    if name is None or name not in asked:
        return None
    counts, total = given[name].double(), float(asked[name].double().sum())
    if bool((counts < 0).any()) or abs(float(counts.sum()) - total) > _ROUNDING * total:
        return f"tensor {name} is below zero, or does not add up to {total:g}"
    return None


def _too_far(given: Mapping[str, Tensor], asked: Mapping[str, Tensor], furthest: float | None) -> str | None:
    # One tensor at a time: a report's are read from the disk.
    moved = _norm(given[name].double() - asked[name].double() for name in asked)
    size = max(_norm(asked.values()), math.sqrt(sum(tensor.numel() for tensor in asked.values())))
    limit = _FURTHEST * size if furthest is None else furthest + _ROUNDING * size
    if moved > limit:
        return f"its tensors moved by {moved:.3g}, and training moves them by at most {limit:.3g}"
    return None


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(tensor.double())) for tensor in tensors))
