import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from experiments.phantom.anatomy import build_anatomy, draw_shape
from experiments.phantom.field import Grid
from experiments.phantom.hospital import DENSITIES, Population
from experiments.phantom.lesion import grow_lesion
from experiments.phantom.parenchyma import FIBROGLANDULAR_SHARE, gland_share, grow_gland
from experiments.phantom.vessel import grow_vessels

GRID = Grid((42, 42, 42), (4.0, 4.0, 4.0))


def _shape(seed=0, **changes):
    return replace(draw_shape(Population(), np.random.default_rng(seed)), **changes)


def _anatomy(seed=0, side=1, **changes):
    return build_anatomy(_shape(seed, **changes), GRID, side, np.random.default_rng(seed + 100))


def test_left_is_the_mirror_image_of_right():
    right, left = _anatomy(side=1, lump=0.0), _anatomy(side=-1, lump=0.0)
    np.testing.assert_allclose(left.depth_mm, right.depth_mm[::-1], atol=1e-3)
    np.testing.assert_array_equal(left.in_breast, right.in_breast[::-1])


def test_breast_has_the_volume_of_its_half_ellipsoid():
    # On a flat wall, with profile 2 and no tail, the outline is half an ellipsoid. A third of a voxel
    # is lost to the skin and gained at the edge.
    shape = _shape(
        ptosis=0.0, lateral=0.0, profile=2.0, axillary_tail=0.0, wall_radius=1e9, lump=0.0, skin=0.0,
        chest_fat=-10.0, radius_u=60.0, radius_w=65.0, projection=75.0,
    )  # fmt: skip
    anatomy = build_anatomy(shape, GRID, 1, np.random.default_rng(0))
    expected = 2 / 3 * np.pi * 60.0 * 65.0 * 75.0
    assert anatomy.in_breast.sum() * 64.0 == pytest.approx(expected, rel=0.04)


def test_ptosis_lowers_the_nipple_and_nothing_else():
    straight, hanging = _shape(ptosis=0.0), _shape(ptosis=20.0)
    assert hanging.nipple[2] - straight.nipple[2] == pytest.approx(-20.0)
    assert hanging.nipple[0] == straight.nipple[0]


def test_nipple_is_the_foremost_point():
    for seed in range(5):
        anatomy = _anatomy(seed, lump=0.0)
        front = np.argwhere(anatomy.depth_mm > 0)[:, 1].max()
        tip = (anatomy.shape.nipple[1] + 6.0) / 4.0 + (42 - 1) / 2  # with the ball of 6 mm
        assert abs(front - tip) < 1.6


def test_wall_lies_behind_the_breast_and_chest_fat_before_it():
    anatomy = _anatomy()
    assert (anatomy.depth_mm[anatomy.above_muscle_mm < 0] > 0).all()
    assert not (anatomy.in_breast & (anatomy.above_muscle_mm <= 0)).any()


@pytest.mark.parametrize("density", DENSITIES)
def test_gland_fills_the_share_of_the_breast_that_its_density_says(density):
    measured, wanted = [], []
    for seed in range(4):
        anatomy = _anatomy(seed)
        wanted.append(gland_share(density, np.random.default_rng(seed)))
        gland = grow_gland(anatomy, wanted[-1], np.random.default_rng(seed))
        measured.append((gland > 0.5)[anatomy.in_breast].mean())
    low, high = FIBROGLANDULAR_SHARE[density]
    assert low <= min(wanted) <= max(wanted) <= high
    np.testing.assert_allclose(measured, wanted, atol=0.04)


def test_denser_gland_contains_the_less_dense_one():
    anatomy = _anatomy()
    glands = [grow_gland(anatomy, share, np.random.default_rng(1)) for share in (0.07, 0.15, 0.28, 0.45)]
    for thin, dense in itertools.pairwise(glands):
        assert (dense >= thin - 1e-5).all()
        assert dense.sum() > 1.3 * thin.sum()


def test_gland_keeps_off_muscle_and_chest_fat():
    for seed in range(3):
        anatomy = _anatomy(seed)
        gland = grow_gland(anatomy, 0.45, np.random.default_rng(seed))
        outside = (anatomy.outline_mm < 0) | (anatomy.above_muscle_mm < 0)
        assert gland[outside].max() == 0.0


def _likeness(gland, lag, axis):
    """Correlation of the gland with itself ``lag`` voxels along ``axis``, without its overall shape."""
    detail = gland - ndimage.gaussian_filter(gland, 3.0)
    core = detail[14:28, 16:28, 14:28]
    size = core.shape[axis]
    one, other = core.take(range(lag, size), axis), core.take(range(size - lag), axis)
    return float(np.mean(one * other) / np.mean(core**2))


def test_strands_run_toward_the_nipple():
    along, across = [], []
    for seed in range(6):
        anatomy = _anatomy(seed, ptosis=0.0, lateral=0.0)
        gland = grow_gland(anatomy, 0.3, np.random.default_rng(seed))
        along.append(_likeness(gland, 2, axis=1))
        across.append((_likeness(gland, 2, axis=0) + _likeness(gland, 2, axis=2)) / 2)
    assert np.mean(along) > np.mean(across) + 0.1


def test_gland_is_a_structure_of_several_voxels():
    """At 4 mm neither speckle nor one blob: neighbours are alike, parts 16 mm apart are not."""
    glands = [grow_gland(_anatomy(seed), 0.3, np.random.default_rng(seed)) for seed in range(6)]
    assert np.mean([_likeness(gland, 1, axis=0) for gland in glands]) > 0.5
    assert np.mean([_likeness(gland, 4, axis=0) for gland in glands]) < 0.3


def test_vessels_are_thin_and_most_lie_near_the_skin():
    anatomy = _anatomy()
    vessels = (grow_vessels(anatomy, np.random.default_rng(2)) > 0.5) & anatomy.in_breast
    assert 20 < vessels.sum() < 0.05 * anatomy.in_breast.sum()
    assert np.median(anatomy.depth_mm[vessels]) < np.median(anatomy.depth_mm[anatomy.in_breast])


def test_lesion_lies_in_the_breast_and_is_one_mass():
    for seed in range(6):
        anatomy = _anatomy(seed)
        gland = grow_gland(anatomy, 0.3, np.random.default_rng(seed))
        lesion = grow_lesion(anatomy, gland, np.random.default_rng(seed))
        mass = lesion.coverage > 0.5
        volume_mm3 = mass.sum() * 64.0
        assert 4 / 3 * np.pi * 4.5**3 < volume_mm3 < 4 / 3 * np.pi * 18.0**3
        assert anatomy.in_breast[mass].mean() > 0.9
        assert (lesion.uptake > 0).all()
        assert (lesion.uptake <= 1).all()


def test_lesion_finds_a_place_in_a_breast_without_gland():
    anatomy = _anatomy()
    lesion = grow_lesion(anatomy, np.zeros(GRID.shape, np.float32), np.random.default_rng(3))
    assert anatomy.in_breast[lesion.coverage > 0.5].mean() > 0.9
