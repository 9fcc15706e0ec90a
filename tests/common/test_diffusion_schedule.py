import math

import pytest
import torch

from common.diffusion.schedule import NoiseSchedule


def paper_alpha_bar(u: float) -> float:
    f = math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2


def test_table_is_the_papers_formula_up_to_the_last_timestep():
    table = NoiseSchedule.cosine(1000).alpha_bars
    expected = torch.tensor([paper_alpha_bar((t + 1) / 1000) for t in range(1000)], dtype=torch.float64)
    torch.testing.assert_close(table[:-1], expected[:-1], rtol=1e-9, atol=0)
    # The last beta is the one that the paper limits: 0 would leave no signal at all.
    assert table[-1] == pytest.approx(expected[-2].item() * 0.001, rel=1e-9)


@pytest.mark.parametrize("num_train_steps", [1, 2, 50, 1000, 4000])
def test_signal_falls_strictly_and_never_reaches_the_ends(num_train_steps):
    table = NoiseSchedule.cosine(num_train_steps).alpha_bars
    assert table.dtype == torch.float64
    assert bool((table > 0).all())
    assert bool((table < 1).all())
    assert bool((table.diff() < 0).all())


def test_every_coefficient_is_finite_at_both_ends():
    schedule = NoiseSchedule.cosine(1000)
    time = torch.tensor([schedule.time(0), schedule.time(999)])
    alpha_bar = schedule.alpha_bar(time)
    for value in (alpha_bar.rsqrt(), (1 - alpha_bar).rsqrt(), schedule.snr(time)):
        assert bool(torch.isfinite(value).all())


def test_snr_is_one_where_half_the_variance_is_left():
    schedule = NoiseSchedule.cosine(4000)
    time = (torch.arange(4000) + 1) / 4000
    crossing = int((schedule.snr(time) >= 1).sum())
    assert schedule.alpha_bars[crossing - 1] >= 0.5 > schedule.alpha_bars[crossing]
    assert crossing / 4000 == pytest.approx(0.4960, abs=5e-4)  # arccos(√(f(0)/2)) of the formula


@pytest.mark.parametrize("num_train_steps", [1, 7, 1000, 4000])
def test_time_names_its_timestep_in_float32(num_train_steps):
    schedule = NoiseSchedule.cosine(num_train_steps)
    times = torch.tensor([schedule.time(t) for t in range(num_train_steps)], dtype=torch.float32)
    assert torch.equal(schedule.alpha_bar(times), schedule.alpha_bars)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 25, 999, 1000])
def test_sampling_starts_at_the_noisiest_timestep_and_is_evenly_spaced(num_steps):
    timesteps = NoiseSchedule.cosine(1000).sampling_timesteps(num_steps)
    assert len(timesteps) == num_steps
    assert timesteps[0] == 999
    gaps = [a - b for a, b in zip(timesteps, [*timesteps[1:], -1], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) >= 1


def test_more_steps_than_timesteps_means_every_timestep():
    assert NoiseSchedule.cosine(4).sampling_timesteps(50) == [3, 2, 1, 0]
    assert NoiseSchedule.cosine(4).sampling_timesteps(50, first=1) == [1, 0]
