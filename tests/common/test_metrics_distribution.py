"""Distances between sets against double loops, closed forms on Gaussians, and sets known to be bad."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, ndimage

from common.errors import MetricError
from common.metrics.distribution import (
    PrincipalComponents,
    frechet_distance,
    mean_pairwise_ms_ssim,
    median_bandwidth,
    mmd_squared,
    one_per_patient,
    subsample,
)
from common.metrics.features import EXTRACTORS, Standardizer
from common.metrics.reconstruction import ms_ssim


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(n, dim, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def slow_mmd_squared(first, second, bandwidth):
    """Gretton et al. 2012, Eq. 3, as written: three double loops."""
    n = len(first)

    def kernel(x, y):
        return math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * bandwidth**2))

    def within(rows):
        return sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    return within(first) + within(second) - 2 * sum(kernel(x, y) for x in first for y in second) / n**2


@settings(max_examples=30)
@given(n=st.integers(2, 7), dim=st.integers(1, 4), bandwidth=st.floats(0.2, 5), seed=st.integers(0, 99))
def test_mmd_is_three_double_loops(n, dim, bandwidth, seed):
    first, second = gaussian(n, dim, seed=seed), gaussian(n, dim, mean=0.5, seed=seed + 100)
    expected = slow_mmd_squared(first.tolist(), second.tolist(), bandwidth)
    assert mmd_squared(first, second, bandwidth) == pytest.approx(expected, abs=1e-12)


def mean_kernel(variance, shift, dim, bandwidth):
    """E k(x, y) for x - y Gaussian with this variance per axis and mean of length ``shift``."""
    width = bandwidth**2 + variance
    return (bandwidth**2 / width) ** (dim / 2) * math.exp(-(shift**2) / (2 * width))


@pytest.mark.parametrize(("shift", "std"), [(0.7, 1.0), (0.0, 0.5), (0.4, 1.3)])
def test_mmd_of_gaussians_has_the_closed_form_as_mean(shift, std):
    dim, bandwidth, draws = 3, 1.5, 120
    expected = (
        mean_kernel(2, 0, dim, bandwidth)
        + mean_kernel(2 * std**2, 0, dim, bandwidth)
        - 2 * mean_kernel(1 + std**2, shift, dim, bandwidth)
    )
    offset = torch.tensor([shift, 0, 0], dtype=torch.float64)
    values = torch.tensor(
        [
            mmd_squared(gaussian(25, dim, seed=k), gaussian(25, dim, offset, std, seed=1000 + k), bandwidth)
            for k in range(draws)
        ]
    )
    standard_error = values.std().item() / math.sqrt(draws)
    assert values.mean().item() == pytest.approx(expected, abs=4 * standard_error)
    assert standard_error < expected / 5  # the tolerance can tell it from zero


def test_mmd_of_one_distribution_is_zero_on_average_and_negative_at_times():
    values = torch.tensor(
        [mmd_squared(gaussian(8, 2, seed=k), gaussian(8, 2, seed=5000 + k), 1.0) for k in range(400)]
    )
    assert abs(values.mean().item()) < 4 * values.std().item() / 20
    assert 0.3 < (values < 0).float().mean().item() < 0.8


def test_mmd_ignores_order_and_is_symmetric():
    first, second, order = gaussian(6, 3), gaussian(6, 3, 1.0, seed=1), torch.randperm(6, generator=seeded())
    value = mmd_squared(first, second, 1.0)
    assert mmd_squared(second, first, 1.0) == pytest.approx(value, abs=1e-14)
    assert mmd_squared(first[order], second, 1.0) == pytest.approx(value, abs=1e-14)


def test_unequal_sets_are_refused_with_the_way_out():
    with pytest.raises(MetricError, match=r"sets of 5 and 4 volumes.*draw 4.*subsample"):
        mmd_squared(gaussian(5, 2), gaussian(4, 2), 1.0)
    with pytest.raises(MetricError, match="equal n"):
        frechet_distance(gaussian(5, 2), gaussian(4, 2))


def test_single_volumes_and_mixed_extractors_are_refused():
    with pytest.raises(MetricError, match="no spread"):
        mmd_squared(gaussian(1, 2), gaussian(1, 2), 1.0)
    with pytest.raises(MetricError, match="one extractor"):
        mmd_squared(gaussian(3, 2), gaussian(3, 4), 1.0)


def test_the_bandwidth_is_the_median_of_all_distances():
    rows = gaussian(7, 3)
    distances = [math.dist(rows[i].tolist(), rows[j].tolist()) for i in range(7) for j in range(i)]
    assert median_bandwidth(rows) == pytest.approx(np.median(distances), abs=1e-12)


def test_identical_training_volumes_have_no_bandwidth():
    with pytest.raises(MetricError, match="volumes that differ"):
        median_bandwidth(torch.ones(4, 3))
    with pytest.raises(MetricError, match="volumes that differ"):
        median_bandwidth(torch.ones(1, 3))


def with_moments(n, mean, covariance, seed=0):
    """Rows whose SAMPLE mean and covariance are exactly these."""
    rows = gaussian(n, len(mean), seed=seed)
    rows = rows - rows.mean(dim=0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    stds, others = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([1.5, 0.5, 0.5]).double()
    shift = torch.tensor([1.0, -2.0, 0.0]).double()
    first = with_moments(20, torch.zeros(3).double(), torch.diag(stds**2))
    second = with_moments(20, shift, torch.diag(others**2), seed=1)
    expected = (shift.square() + (stds - others).square()).sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-9)


def test_frechet_matches_scipys_matrix_root():
    first, second = gaussian(30, 5) @ gaussian(5, 5, seed=2), gaussian(30, 5, seed=1) @ gaussian(5, 5, seed=3)
    covariances = [np.cov(rows.numpy().T) for rows in (first, second)]
    expected = (first.mean(0) - second.mean(0)).square().sum().item() + np.trace(
        covariances[0] + covariances[1] - 2 * linalg.sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_a_set_with_itself_is_zero_even_if_degenerate():
    rows = torch.cat([gaussian(10, 2), torch.zeros(10, 2).double()], dim=1)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows[:, :1], rows[:, :1]) == pytest.approx(0, abs=1e-9)


def test_frechet_over_many_features_is_refused():
    with pytest.raises(MetricError, match="at most 8 PrincipalComponents"):
        frechet_distance(gaussian(40, 9), gaussian(40, 9, seed=1))


def test_principal_components_are_the_plane_that_the_volumes_span():
    plane = gaussian(2, 10, seed=4)
    rows = gaussian(30, 2, std=torch.tensor([3.0, 1.0]).double()) @ plane + 5
    components = PrincipalComponents.fit(rows)
    assert components.directions.shape == (10, 2)
    assert torch.allclose(components.directions.T @ components.directions, torch.eye(2).double(), atol=1e-9)
    assert torch.allclose(components(rows) @ components.directions.T + components.mean, rows, atol=1e-9)
    variances = components(rows).var(dim=0)
    assert variances[0] > variances[1]


def test_components_come_from_real_training_alone():
    """A set shifted along a direction that training never varies in keeps its coordinates."""
    rows = torch.cat([gaussian(20, 3), torch.zeros(20, 1).double()], dim=1)
    components = PrincipalComponents.fit(rows)
    shifted = rows + torch.tensor([0, 0, 0, 9.0]).double()
    assert torch.allclose(components(shifted), components(rows), atol=1e-9)


@pytest.mark.parametrize("asked", [0, 9])
def test_only_one_to_eight_components(asked):
    with pytest.raises(MetricError, match="1 to 8"):
        PrincipalComponents.fit(gaussian(20, 12), asked)


def phantoms(count, seed):
    """Ellipsoids of varying size and place with varying smooth texture, on background -1."""
    generator = np.random.default_rng(seed)
    axes = np.stack(np.meshgrid(*[np.arange(28)] * 3, indexing="ij"))
    made = []
    for _ in range(count):
        centre, radii = generator.uniform(11, 17, (3, 1, 1, 1)), generator.uniform(6, 10, (3, 1, 1, 1))
        inside = (((axes - centre) / radii) ** 2).sum(axis=0) < 1
        texture = ndimage.gaussian_filter(generator.standard_normal((28, 28, 28)), 1.5)
        made.append(np.where(inside, 0.2 + texture / texture.std() * generator.uniform(0.15, 0.35), -1))
    return torch.from_numpy(np.stack(made)[:, None]).float().clamp(-1, 1)


def blurred(volumes):
    return torch.from_numpy(ndimage.gaussian_filter(volumes.numpy(), (0, 0, 1.5, 1.5, 1.5)))


BAD = {
    "blurred": blurred,
    "noisy": lambda v: v + 0.15 * torch.randn(v.shape, generator=seeded(9)),
    "collapsed": lambda v: v[:1].expand_as(v) + 0.01 * torch.randn(v.shape, generator=seeded(9)),
    "brighter": lambda v: (v + 0.3).clamp(-1, 1),
    "moved": lambda v: v.roll(6, dims=3),
}


@pytest.fixture(scope="module")
def splits():
    """Training patients, and two sets of sixteen others."""
    return phantoms(32, 0), phantoms(16, 1), phantoms(16, 2)


@pytest.fixture(scope="module", params=EXTRACTORS)
def measured(request, splits):
    """An extractor in real training units, its bandwidth, and what it says of the real patients."""
    extractor = EXTRACTORS[request.param]
    training, first, second = (extractor(volumes) for volumes in splits)
    standardise = Standardizer.fit(training)
    bandwidth = median_bandwidth(standardise(training))
    floor = mmd_squared(standardise(first), standardise(second), bandwidth)
    return lambda volumes: mmd_squared(standardise(first), standardise(extractor(volumes)), bandwidth), floor


@pytest.mark.parametrize("bad", BAD)
def test_bad_sets_are_farther_than_a_second_set_of_real_ones(splits, measured, bad):
    distance_to_real, floor = measured
    assert distance_to_real(BAD[bad](splits[2])) > abs(floor) + 0.02


def test_ms_ssim_among_a_set_is_one_when_it_collapsed(splits):
    _, real, _ = splits
    among_real = mean_pairwise_ms_ssim(real, 10, seeded())
    assert mean_pairwise_ms_ssim(real[:1].repeat(5, 1, 1, 1, 1), 10, seeded()) == pytest.approx(1, abs=1e-6)
    assert among_real < 0.9


def test_pairs_are_of_different_volumes_and_all_of_them_if_asked(splits):
    volumes = splits[1][:4]
    by_hand = [ms_ssim(volumes[i : i + 1], volumes[j : j + 1]).item() for i in range(4) for j in range(i)]
    assert mean_pairwise_ms_ssim(volumes, 99, seeded()) == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_pairs_are_drawn_by_the_given_generator(splits):
    draws = [mean_pairwise_ms_ssim(splits[1], 3, seeded(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_pairs_of_a_stack_are_compared_by_slice():
    stacks = phantoms(3, 0)[..., 10:18]
    assert 0 < mean_pairwise_ms_ssim(stacks, 3, seeded(), slice_axis="z") < 1


def test_a_single_volume_has_no_pairs():
    with pytest.raises(MetricError, match="1 volumes"):
        mean_pairwise_ms_ssim(torch.zeros(1, 1, 28, 28, 28), 5, seeded())


@given(count=st.integers(1, 30), seed=st.integers(0, 9), data=st.data())
def test_a_subsample_has_the_size_asked_without_repetition(count, seed, data):
    size = data.draw(st.integers(1, count))
    chosen = subsample(count, size, seeded(seed)).tolist()
    assert len(set(chosen)) == size
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(count))


def test_a_subsample_of_too_few_is_refused():
    with pytest.raises(MetricError, match="5 volumes out of 4"):
        subsample(4, 5, seeded())


@given(patients=st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_each_patient_gives_exactly_one_volume(patients, seed):
    chosen = one_per_patient(patients, seeded(seed)).tolist()
    assert [patients[i] for i in chosen] == sorted(set(patients))


def test_every_volume_of_a_patient_can_be_the_one():
    assert {one_per_patient(["a", "a", "a"], seeded(k)).item() for k in range(30)} == {0, 1, 2}
