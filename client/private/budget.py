"""The site's cap, and whether a spend stays within it."""

from collections.abc import Sequence

from common.errors import BudgetError
from common.frozen import FrozenModel
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian
from common.privacy.plan import Delta

Events = Sequence[SampledGaussian]


class Budget(FrozenModel):
    """The most that a site lets its patients' presence be told, over everything it ever takes part in.

    Attributes:
        epsilon: Cap of the joint epsilon.
        delta: Total delta.
    """

    epsilon: float
    delta: Delta


class BudgetCheck:
    """Asks the accountants, and remembers what fitted: they take half a second, and a study has many rounds.

    Epsilon grows with every step. So if all that a study may still ask for fits, each of its orders does.
    """

    def __init__(self) -> None:
        self._fitted: dict[Budget, dict[tuple[float, float], int]] = {}

    def refuse_beyond(self, budget: Budget, events: Events, ahead: Events) -> None:
        """Return if ``events`` together stay within the budget.

        Args:
            budget: The cap.
            events: All that was spent, and what is to be spent now.
            ahead: The same with all that the study may still ask for.

        Raises:
            BudgetError: They do not.
            AccountingError: Their epsilon cannot be told.
        """
        if _covers(self._fitted.get(budget, {}), events):
            return
        if epsilon(ahead, budget.delta) <= budget.epsilon:
            self._fitted[budget] = _steps(ahead)
            return
        would_be = epsilon(events, budget.delta)
        if not would_be <= budget.epsilon:
            raise BudgetError(
                f"this order would bring the joint epsilon to {would_be:.3f}, above the cap of "
                f"{budget.epsilon:g} at delta {budget.delta:g}",
                "the stage ends with the last global model; a larger cap is for the site to decide",
            )


def _steps(events: Events) -> dict[tuple[float, float], int]:
    return {(event.sampling_rate, event.noise_multiplier): event.steps for event in events}


def _covers(known: dict[tuple[float, float], int], events: Events) -> bool:
    """Return whether every mechanism of ``events`` has at least as many steps in ``known``."""
    return all(known.get(mechanism, 0) >= steps for mechanism, steps in _steps(events).items())
