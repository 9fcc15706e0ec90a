"""The budget check answers as if it asked the accountants every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.private import budget as module
from client.private.budget import Budget, BudgetCheck
from common.errors import BudgetError
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian

NOISES = (2.0, 3.0)


def events(*steps: int) -> list[SampledGaussian]:
    return [
        SampledGaussian(sampling_rate=0.1, noise_multiplier=noise, steps=number)
        for noise, number in zip(NOISES, steps, strict=True)
        if number
    ]


def additive(spent, delta):
    """A stand-in for the accountants that grows with every step, and is cheap."""
    return sum(event.steps / event.noise_multiplier for event in spent)


orders = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(0, 40), st.sampled_from([3.0, 10.0, 25.0])),
    max_size=12,
)


@given(orders)
def test_it_decides_as_the_accountants_do_whatever_it_remembers(asked):
    check, spent = BudgetCheck(), [0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "epsilon", additive)
        for mechanism, steps, further, cap in asked:
            would_be, ahead = list(spent), list(spent)
            would_be[mechanism] += steps
            ahead[mechanism] += steps + further
            fits = additive(events(*would_be), 1e-5) <= cap
            try:
                check.refuse_beyond(Budget(epsilon=cap, delta=1e-5), events(*would_be), events(*ahead))
            except BudgetError:
                assert not fits
            else:
                assert fits
                spent = would_be


def test_a_study_that_fits_as_a_whole_asks_the_accountants_once(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "epsilon", lambda *a: calls.append(1) or epsilon(*a))
    check, budget = BudgetCheck(), Budget(epsilon=8, delta=1e-5)
    for round_index in range(1, 101):
        check.refuse_beyond(budget, events(round_index, 0), events(100, 0))
    assert len(calls) == 1
    with pytest.raises(BudgetError, match="above the cap of 8"):
        check.refuse_beyond(budget, events(100_000, 0), events(100_000, 0))
