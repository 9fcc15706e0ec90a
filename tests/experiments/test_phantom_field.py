import itertools

import numpy as np
import pytest

from experiments.phantom.field import Grid, noise_at
from experiments.phantom.tube import paint_tube

GRID = Grid((40, 40, 40), (2.0, 2.0, 2.0))


def _radius(grid: Grid) -> np.ndarray:
    return np.sqrt(sum(axis**2 for axis in grid.axes))


def _cubic_b_spline(t: np.ndarray) -> np.ndarray:
    """The textbook definition: the box function convolved with itself, as divided differences."""
    weights = [1, -4, 6, -4, 1]
    return sum(w * np.clip(t + 2 - k, 0, None) ** 3 for k, w in enumerate(weights)) / 6


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 2.5, 2.0)])
def test_coverage_of_a_ball_sums_to_its_volume(spacing):
    grid = Grid((48, 36, 40), spacing)
    coverage = grid.coverage(21.0 - _radius(grid))
    volume = coverage.sum() * np.prod(spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * 21.0**3, rel=0.01)


def test_coverage_is_half_on_the_surface():
    assert GRID.coverage(np.zeros(1, np.float32))[0] == 0.5


@pytest.mark.parametrize("steepness", [0.01, 1.0, 300.0])
def test_distance_to_a_plane_is_exact_however_steep_its_level(steepness):
    x, y, z = GRID.axes
    plane = (0.6 * x + 0.8 * y + 0 * z - 3).astype(np.float32)
    np.testing.assert_allclose(GRID.distance_mm(steepness * plane), plane, rtol=1e-3, atol=1e-3)


def test_smooth_noise_has_unit_variance_and_no_mean():
    grid = Grid((24, 24, 24), (4.0, 5.0, 6.0))
    generator = np.random.default_rng(0)
    fields = np.stack([grid.smooth_noise(16.0, generator) for _ in range(20)])
    assert fields.std() == pytest.approx(1.0, abs=0.04)
    assert abs(fields.mean()) < 0.03


def test_longer_waves_are_smoother():
    generator = np.random.default_rng(1)
    rough, smooth = (
        np.mean([np.diff(GRID.smooth_noise(wavelength, generator), axis=0).std() for _ in range(5)])
        for wavelength in (10.0, 40.0)
    )
    assert rough / smooth == pytest.approx(4.0, rel=0.3)


def test_noise_depends_on_millimetres_not_on_voxels():
    coarse, fine = Grid((21, 21, 21), (4.0, 4.0, 4.0)), Grid((41, 41, 41), (2.0, 2.0, 2.0))
    a = coarse.smooth_noise(20.0, np.random.default_rng(2))
    b = fine.smooth_noise(20.0, np.random.default_rng(2))
    np.testing.assert_allclose(b[::2, ::2, ::2], a, atol=1e-5)


def test_noise_at_points_equals_the_sum_over_its_lattice():
    points = np.random.default_rng(3).uniform(0, 30, (3, 50)).astype(np.float32)
    values = noise_at(points, 10.0, np.random.default_rng(4))
    positions = points.astype(np.float64) / 5
    positions -= positions.min(axis=1, keepdims=True) - 1
    size = np.ceil(positions.max(axis=1)).astype(int) + 3
    lattice = np.random.default_rng(4).standard_normal(size)
    weights = [_cubic_b_spline(p[:, None] - np.arange(n)) for p, n in zip(positions, size, strict=True)]
    expected = np.einsum("ijk,pi,pj,pk->p", lattice, *weights) / (151 / 315) ** 1.5
    np.testing.assert_allclose(values, expected, atol=2e-4)


def test_a_tube_is_painted_as_if_every_voxel_were_measured():
    generator = np.random.default_rng(5)
    path = np.concatenate([generator.uniform(-25, 25, (5, 3)), generator.uniform(1.5, 4, (5, 1))], axis=1)
    painted = np.full(GRID.shape, -100.0, dtype=np.float32)
    paint_tube(painted, GRID.axes, GRID.voxel_mm, path.astype(np.float32))
    slow = np.full(GRID.shape, -100.0)
    points = np.stack(np.broadcast_arrays(*GRID.axes), axis=-1).astype(np.float64)
    for start, end in itertools.pairwise(path):
        along = end[:3] - start[:3]
        share = np.clip((points - start[:3]) @ along / (along @ along), 0, 1)
        gap = np.linalg.norm(points - start[:3] - share[..., None] * along, axis=-1)
        slow = np.maximum(slow, start[3] + share * (end[3] - start[3]) - gap)
    np.testing.assert_allclose(GRID.coverage(painted), GRID.coverage(slow), atol=1e-4)


def test_a_straight_tube_has_the_volume_of_a_capsule():
    painted = np.full(GRID.shape, -100.0, dtype=np.float32)
    path = np.array([[-20, 0.5, 0.3, 6.0], [20, 0.5, 0.3, 6.0]], dtype=np.float32)
    paint_tube(painted, GRID.axes, GRID.voxel_mm, path)
    volume = GRID.coverage(painted).sum() * 8.0
    assert volume == pytest.approx(np.pi * 36 * 40 + 4 / 3 * np.pi * 216, rel=0.02)


def test_a_tube_outside_the_grid_paints_nothing():
    painted = np.full(GRID.shape, -100.0, dtype=np.float32)
    path = np.array([[100, 0, 0, 2.0], [120, 0, 0, 2.0]], dtype=np.float32)
    paint_tube(painted, GRID.axes, GRID.voxel_mm, path)
    assert (painted == -100).all()
