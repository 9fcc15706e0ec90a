"""Means of named numbers over the steps of a round."""

from collections.abc import Mapping


class RunningMean:
    """Adds up named numbers; a name counts only the steps in which it appeared."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one step's numbers."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def result(self) -> dict[str, float]:
        """Return the mean of each name."""
        return {name: self._sums[name] / self._counts[name] for name in sorted(self._sums)}
