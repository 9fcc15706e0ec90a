"""How orders reach sites: Flower in production and simulation, a direct call in tests and baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.federation.messages import Report, TrainOrder


@dataclass(frozen=True)
class Exchange:
    """What came back from one round of orders.

    Attributes:
        reports: In any order; sites that did not answer in time are absent.
        bytes_down: Bytes of tensors sent.
        bytes_up: Bytes of tensors received.
    """

    reports: Sequence[Report]
    bytes_down: int
    bytes_up: int


class Transport(Protocol):
    """Delivers orders and collects reports."""

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:
        """Return what arrived within ``deadline_s`` seconds."""
        ...
