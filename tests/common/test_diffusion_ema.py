import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion.ema import ema_update, warmed_decay


@settings(deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=12),
    decay=st.floats(0, 0.999),
    steps=st.integers(1, 20),
    start=st.floats(-1000, 1000),
)
def test_average_is_the_weighted_mean_of_all_updates_without_the_start(values, decay, steps, start):
    average = {"w": torch.tensor(start, dtype=torch.float64)}
    for k, value in enumerate(values, start=1):
        current = {"w": torch.tensor(value, dtype=torch.float64)}
        average = ema_update(average, current, warmed_decay(decay, k, steps))
    weights = [(decay**steps) ** (len(values) - i) for i in range(1, len(values) + 1)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert average["w"].item() == pytest.approx(expected, abs=1e-9)


def test_one_update_for_many_steps_is_those_steps_at_a_constant_value():
    # Far from the start the bias correction is gone, and S equal steps keep d^S of the old average.
    step_by_step = {"w": torch.tensor(5.0, dtype=torch.float64)}
    for k in range(1001, 1011):
        current = {"w": torch.tensor(1.0, dtype=torch.float64)}
        step_by_step = ema_update(step_by_step, current, warmed_decay(0.9, k))
    at_once = ema_update(
        {"w": torch.tensor(5.0, dtype=torch.float64)},
        {"w": torch.tensor(1.0, dtype=torch.float64)},
        warmed_decay(0.9, 101, steps_per_update=10),
    )
    assert at_once["w"].item() == pytest.approx(step_by_step["w"].item(), rel=1e-4)
    assert at_once["w"].item() == pytest.approx(1 + 4 * 0.9**10, rel=1e-4)


def test_first_update_is_the_current_value_and_later_ones_approach_the_decay():
    assert warmed_decay(0.99, 1) == 0
    rising = [warmed_decay(0.99, k) for k in range(1, 500)]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert warmed_decay(0.99, 10_000) == pytest.approx(0.99, abs=1e-12)


def test_arguments_are_untouched_and_dtype_is_kept():
    average, current = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    result = ema_update(average, current, 0.5)
    assert result["w"].dtype == torch.float32
    assert (average["w"].item(), current["w"].item(), result["w"].item()) == (1.0, 3.0, 2.0)


def test_float32_average_is_rounded_once():
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
    exact = (0.9 * old.double() + (1 - 0.9) * new.double()).float()
    assert torch.equal(ema_update({"w": old}, {"w": new}, 0.9)["w"], exact)
