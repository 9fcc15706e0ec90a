"""Bootstrap intervals against closed forms and counted coverage."""

import math

import pytest
import torch

from common.errors import MetricError
from common.metrics.bootstrap import (
    bootstrap_mean,
    bootstrap_mmd,
    bootstrap_mmd_difference,
    bootstrap_paired_difference,
)
from common.metrics.distribution import mmd_squared


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def named(values):
    return {f"patient-{i:03}": float(v) for i, v in enumerate(values)}


def gaussian(n, dim, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def test_the_half_width_is_the_normal_one_for_many_patients():
    values = gaussian(400, 1)[:, 0]
    interval = bootstrap_mean(named(values), seeded(), num_resamples=8000)
    standard_error = values.std(correction=0).item() / math.sqrt(400)
    assert interval.estimate == pytest.approx(values.mean().item(), abs=1e-12)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.05)


def test_two_patients_have_a_distribution_known_by_hand():
    """Resamples of (0, 1): mean 0 or 1 with 1/4 each, 1/2 otherwise."""
    wide = bootstrap_mean({"a": 0.0, "b": 1.0}, seeded(), level=0.6)
    narrow = bootstrap_mean({"a": 0.0, "b": 1.0}, seeded(), level=0.4)
    assert (wide.low, wide.high) == (0, 1)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    covered = 0
    for k in range(300):
        interval = bootstrap_mean(named(gaussian(30, 1, mean=2, seed=k)[:, 0]), seeded(k), num_resamples=400)
        covered += interval.low <= 2 <= interval.high
    # 95 % nominal; the percentile interval of 30 patients gives about 93; 3 sigma of 300 draws is 4.
    assert 0.89 <= covered / 300 <= 0.98


def test_pairing_removes_what_patients_have_in_common():
    hard_and_easy = gaussian(40, 1, std=5)[:, 0]
    better = hard_and_easy + 0.3 + gaussian(40, 1, std=0.1, seed=1)[:, 0]
    paired = bootstrap_paired_difference(named(better), named(hard_and_easy), seeded())
    assert paired.estimate == pytest.approx((better - hard_and_easy).mean().item(), abs=1e-12)
    assert 0.2 < paired.low < 0.3 < paired.high < 0.4
    unpaired = bootstrap_mean(named(better), seeded())
    assert unpaired.high - unpaired.low > 20 * (paired.high - paired.low)


def test_unpaired_patients_are_refused_by_name():
    with pytest.raises(MetricError, match="1 patients have one value only, 'c'"):
        bootstrap_paired_difference({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, seeded())


def test_the_seed_decides_and_the_order_of_patients_does_not():
    values = named(gaussian(12, 1)[:, 0])
    backwards = dict(reversed(values.items()))
    assert bootstrap_mean(values, seeded(3)) == bootstrap_mean(backwards, seeded(3))
    assert bootstrap_mean(values, seeded(3)) != bootstrap_mean(values, seeded(4))


@pytest.mark.parametrize("values", [{}, {"a": 1.0}])
def test_one_patient_cannot_be_resampled(values):
    with pytest.raises(MetricError, match="at least 2 patients"):
        bootstrap_mean(values, seeded())


def test_an_infinite_value_is_refused():
    with pytest.raises(MetricError, match="not finite"):
        bootstrap_mean({"a": 1.0, "b": math.inf}, seeded())


@pytest.mark.parametrize("level", [0, 1, 95])
def test_the_level_is_a_share(level):
    with pytest.raises(MetricError, match="between 0 and 1"):
        bootstrap_mean({"a": 1.0, "b": 2.0}, seeded(), level=level)


def test_resampled_mmd_is_centred_on_the_estimate():
    """A patient drawn twice must not count as a near pair: that would add about 2(1 - E k)/n."""
    real, synthetic = gaussian(20, 3), gaussian(20, 3, mean=0.8, seed=1)
    middle = bootstrap_mmd(real, synthetic, 1.0, seeded(), num_resamples=4000, level=0.01)
    assert middle.estimate == pytest.approx(mmd_squared(real, synthetic, 1.0), abs=1e-12)
    assert middle.low == pytest.approx(middle.estimate, abs=0.01)  # the fault would be 0.07


def slow_resample_of_mmd(real, synthetic, rows, columns):
    """MMD² of one resample by double loops, pairs of one patient with himself left out."""

    def kernel(x, y):
        return math.exp(-(x - y).square().sum().item() / 2)

    def within(data, picks):
        pairs = [(i, j) for i in picks for j in picks if i != j]
        return sum(kernel(data[i], data[j]) for i, j in pairs) / len(pairs)

    cross = [kernel(real[i], synthetic[j]) for i in rows for j in columns]
    return within(real, rows) + within(synthetic, columns) - 2 * sum(cross) / len(cross)


def test_a_single_resample_is_the_double_loop():
    real, synthetic = gaussian(5, 2), gaussian(5, 2, mean=1, seed=1)
    draws = seeded(7)
    rows, columns = (torch.randint(5, (1, 5), generator=draws)[0].tolist() for _ in range(2))
    one = bootstrap_mmd(real, synthetic, 1.0, seeded(7), num_resamples=1)
    expected = slow_resample_of_mmd(real, synthetic, rows, columns)
    assert one.low == pytest.approx(expected, abs=1e-12)
    assert one.high == pytest.approx(expected, abs=1e-12)


def test_the_difference_of_two_mmds_takes_the_real_patients_once():
    """Against itself a set differs by its own resampling only, and the real term cancels exactly."""
    real, near, far = gaussian(25, 2), gaussian(25, 2, mean=0.5, seed=1), gaussian(25, 2, mean=2, seed=2)
    interval = bootstrap_mmd_difference(real, near, far, 1.5, seeded())
    expected = mmd_squared(real, near, 1.5) - mmd_squared(real, far, 1.5)
    assert interval.estimate == pytest.approx(expected, abs=1e-12)
    assert interval.low < expected < interval.high < 0
    swapped = bootstrap_mmd_difference(real, far, near, 1.5, seeded())
    assert swapped.estimate == pytest.approx(-expected, abs=1e-12)


def mean_kernel(variance, shift, dim, bandwidth):
    width = bandwidth**2 + variance
    return (bandwidth**2 / width) ** (dim / 2) * math.exp(-(shift**2) / (2 * width))


def test_the_interval_of_an_mmd_difference_covers_the_closed_form():
    dim, bandwidth, shifts = 2, 1.5, (0.6, 1.2)
    truth = -2 * (mean_kernel(2, shifts[0], dim, bandwidth) - mean_kernel(2, shifts[1], dim, bandwidth))
    covered = 0
    for k in range(150):
        real = gaussian(30, dim, seed=k)
        sets = [
            gaussian(30, dim, torch.tensor([shift, 0]).double(), seed=1000 * (i + 1) + k)
            for i, shift in enumerate(shifts)
        ]
        interval = bootstrap_mmd_difference(real, *sets, bandwidth, seeded(k), num_resamples=300)
        covered += interval.low <= truth <= interval.high
    assert 0.87 <= covered / 150 <= 0.995


def test_sets_of_unequal_size_are_refused():
    with pytest.raises(MetricError, match="equal n"):
        bootstrap_mmd_difference(gaussian(5, 2), gaussian(5, 2), gaussian(4, 2), 1.0, seeded())
