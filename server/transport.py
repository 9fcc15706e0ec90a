"""How orders reach sites: Flower in production and simulation, a direct call in tests and baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.federation.messages import Report, TrainOrder


@dataclass(frozen=True)
class Exchange:
    """What came back from one round of orders.

    Attributes:
        reports: In any order; sites that did not answer in time are absent.
        bytes_down: Bytes of tensors sent.
        bytes_up: Bytes of tensors received.
        said: What was last heard of the absent sites, whoever said it.
    """

    reports: Sequence[Report]
    bytes_down: int
    bytes_up: int
    said: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """Delivers orders and collects reports."""

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:
        """Return what arrived within ``deadline_s`` seconds."""
        ...
