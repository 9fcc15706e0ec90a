"""Laws of the weighted sum: what aggregation promises whatever the values are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FederationError
from common.federation.update import Update, total

floats = st.floats(-1e3, 1e3, width=32)
states = st.lists(floats, min_size=3, max_size=3).map(lambda v: {"w": torch.tensor(v, dtype=torch.float32)})
weights = st.floats(0.1, 100.0)


@given(states, weights)
def test_one_site_comes_back_bit_for_bit_after_the_cast(state, weight):
    mean = Update.of(state, weight).mean()["w"].to(torch.float32)
    assert torch.equal(mean, state["w"])


@given(states, weights)
def test_two_equal_sites_equal_one_bit_for_bit(state, weight):
    mean = (Update.of(state, weight) + Update.of(state, weight)).mean()["w"].to(torch.float32)
    assert torch.equal(mean, state["w"])


@given(st.lists(st.tuples(states, weights), min_size=3, max_size=6), st.randoms())
def test_sums_associate_and_commute_to_1e_12(contributions, random):
    updates = [Update.of(state, weight) for state, weight in contributions]
    left = total(updates)
    right = updates[0] + total(updates[1:])
    random.shuffle(updates)
    shuffled = total(updates)
    scale = max(1.0, float(sum(u.sums["w"].abs().max() for u in updates)))
    for other in (right, shuffled):
        assert float((left.sums["w"] - other.sums["w"]).abs().max()) <= 1e-12 * scale
        assert left.weight == pytest.approx(other.weight, rel=1e-12)


def test_the_mean_is_the_weighted_mean_worked_by_hand():
    a = Update.of({"w": torch.tensor([1.0, 2.0])}, 3.0)
    b = Update.of({"w": torch.tensor([5.0, -2.0])}, 1.0)
    torch.testing.assert_close(
        (a + b).mean()["w"], torch.tensor([2.0, 1.0], dtype=torch.float64), rtol=0, atol=0
    )


def test_updates_of_different_tensors_do_not_add():
    with pytest.raises(FederationError, match="differ in"):
        Update.of({"a": torch.zeros(1)}, 1.0) + Update.of({"b": torch.zeros(1)}, 1.0)


def test_nothing_to_add_is_a_named_error():
    with pytest.raises(FederationError, match="no update"):
        total([])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(FederationError, match="not positive"):
        Update.of({"a": torch.zeros(1)}, weight)
