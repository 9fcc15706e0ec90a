"""Laws of geometry. A volume whose voxels hold their own place in mm shows any error of an affine."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import io_orientation

from common.volume.geometry import (
    Affine,
    Orientation,
    centred_affine,
    crop_or_pad,
    cropped_affine,
    reorient,
    reoriented_affine,
    resample,
    resampled_affine,
    resampled_shape,
    spacing_of,
    undo_crop_or_pad,
    undo_reorient,
    undo_resample,
)

TURNS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
MM = 1e-9  # float64 coordinates of a few hundred mm: rounding alone

sizes = st.tuples(*[st.integers(1, 9)] * 3)
sizes_of_two = st.tuples(*[st.integers(2, 9)] * 3)
spacings = st.tuples(*[st.floats(0.4, 5.0)] * 3)


def an_affine(order=(0, 1, 2), signs=(1, 1, 1), spacing=(0.7, 1.3, 2.9)) -> Affine:
    """A turned, spaced and slightly oblique affine."""
    angle = 0.1
    oblique = np.array(
        [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    affine = np.eye(4)
    affine[:3, :3] = oblique @ np.eye(3)[:, list(order)] @ np.diag(np.multiply(signs, spacing))
    affine[:3, 3] = [-31.0, 17.5, 240.25]
    return affine


def places(affine: Affine, shape) -> torch.Tensor:
    """Return [3, x, y, z]: where each voxel lies in mm."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return torch.from_numpy(np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0).copy())


def orientation_of(affine: Affine) -> Orientation:
    turns = io_orientation(affine)
    order = tuple(int(np.flatnonzero(turns[:, 0] == axis)[0]) for axis in range(3))
    return Orientation(order, tuple(bool(turns[source, 1] < 0) for source in order))


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_reorientation_keeps_every_voxel_in_its_place(order, signs) -> None:
    affine, shape = an_affine(order, signs), (4, 5, 6)
    before = places(affine, shape)
    orientation = orientation_of(affine)
    after = reorient(before, orientation)
    turned = reoriented_affine(affine, shape, orientation)
    torch.testing.assert_close(places(turned, after.shape[-3:]), after, atol=MM, rtol=0)
    # RAS: each axis runs up its own coordinate more than any other
    directions = turned[:3, :3] / np.linalg.norm(turned[:3, :3], axis=0)
    assert (np.diag(directions) > 0.9).all()
    assert torch.equal(undo_reorient(after, orientation), before)


@given(shape=sizes, target=sizes)
def test_crop_or_pad_keeps_every_voxel_in_its_place(shape, target) -> None:
    affine = an_affine()
    after = crop_or_pad(places(affine, shape), target, fill=float("nan"))
    expected = places(cropped_affine(affine, shape, target), target)
    inside = ~after.isnan()
    assert after.shape == (3, *target)
    assert int(inside[0].sum()) == np.prod(np.minimum(shape, target))
    torch.testing.assert_close(after[inside], expected[inside], atol=MM, rtol=0)


@given(shape=sizes, target=sizes, fill=st.floats(-5, 5, width=32))
def test_undoing_crop_or_pad_restores_the_inside_exactly(shape, target, fill) -> None:
    volume = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) + 10
    back = undo_crop_or_pad(crop_or_pad(volume, target, fill), shape, fill)
    kept = back == volume
    assert int(kept[0].sum()) == np.prod(np.minimum(shape, target))
    assert (back[~kept] == fill).all()


@given(shape=sizes, target=sizes)
def test_crop_and_padding_are_centred(shape, target) -> None:
    affine = cropped_affine(np.eye(4), shape, target)
    shift = affine[:3, 3] + (np.array(target) - 1) / 2 - (np.array(shape) - 1) / 2
    assert (np.abs(shift) <= 0.5).all()


def test_crop_or_pad_of_an_odd_difference_by_hand() -> None:
    line = torch.arange(1.0, 4.0).reshape(1, 3, 1, 1)
    assert crop_or_pad(line, (4, 1, 1), -1.0).flatten().tolist() == [-1, 1, 2, 3]
    assert crop_or_pad(line, (6, 1, 1), -1.0).flatten().tolist() == [-1, -1, 1, 2, 3, -1]
    assert crop_or_pad(line, (2, 1, 1), -1.0).flatten().tolist() == [1, 2]
    labels = crop_or_pad(line[0].long(), (4, 2, 1), 0)
    assert labels.tolist() == [[[0], [0]], [[0], [1]], [[0], [2]], [[0], [3]]]


@given(shape=sizes_of_two, before=spacings, after=spacings)
def test_resampled_voxels_hold_the_place_their_affine_says(shape, before, after) -> None:
    # A coordinate is linear, so trilinear interpolation returns it exactly wherever it does not
    # repeat the border.
    affine = an_affine(spacing=before)
    resampled = resample(places(affine, shape), before, after, "trilinear")
    new_affine = resampled_affine(affine, shape, before, after)
    expected = places(new_affine, resampled.shape[-3:])
    source = places(np.linalg.inv(affine) @ new_affine, resampled.shape[-3:])  # in input voxels
    inside = torch.ones(resampled.shape[-3:], dtype=torch.bool)
    for axis in range(3):
        inside &= (source[axis] >= 0) & (source[axis] <= shape[axis] - 1)
    torch.testing.assert_close(resampled[:, inside], expected[:, inside], atol=1e-8, rtol=0)
    assert resampled.shape[-3:] == resampled_shape(shape, before, after)


@given(shape=sizes_of_two, before=spacings, after=spacings)
def test_resampling_keeps_the_centre_and_the_extent(shape, before, after) -> None:
    affine = an_affine(spacing=before)
    new_shape = resampled_shape(shape, before, after)
    new_affine = resampled_affine(affine, shape, before, after)

    def centre(of, size):
        return of[:3, :3] @ ((np.array(size) - 1) / 2) + of[:3, 3]

    np.testing.assert_allclose(centre(affine, shape), centre(new_affine, new_shape), atol=MM)
    for axis in range(3):
        extent = new_shape[axis] * spacing_of(new_affine)[axis]
        loss = abs(extent - shape[axis] * before[axis])
        assert spacing_of(new_affine)[axis] == pytest.approx(after[axis], rel=1e-3)
        assert new_shape[axis] == 1 or loss <= after[axis] / 2 + 0.01  # a hundredth mm: header precision


def test_resampling_by_hand() -> None:
    line = torch.tensor([0.0, 4.0, 8.0, 20.0]).reshape(1, 4, 1, 1)
    keep = ("keep", "keep")
    coarser = resample(line, (1.0, 1.0, 1.0), (2.0, *keep), "trilinear")
    assert coarser.flatten().tolist() == [2, 14]  # halfway between two samples
    finer = resample(line, (1.0, 1.0, 1.0), (0.5, *keep), "trilinear")
    assert finer.flatten().tolist() == [0, 1, 3, 5, 7, 11, 17, 20]  # the border repeats
    nearest = resample(line.long(), (1.0, 1.0, 1.0), (0.5, *keep), "nearest")
    assert nearest.flatten().tolist() == [0, 0, 4, 4, 8, 8, 20, 20]


def test_resampling_agrees_with_torch_interpolate() -> None:
    # An oracle: torch's trilinear without align_corners also maps voxel centres about the centre.
    volume = torch.rand(2, 6, 8, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for scale in (2, 4, Fraction(1, 2)):
        expected = torch.nn.functional.interpolate(
            volume[None], scale_factor=float(scale), mode="trilinear", align_corners=False
        )[0]
        ours = resample(volume, (1.0, 1.0, 1.0), (float(1 / scale),) * 3, "trilinear")
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_an_axis_that_says_keep_is_not_touched() -> None:
    volume = torch.rand(1, 8, 8, 5, generator=torch.Generator().manual_seed(2))
    after = resample(volume, (0.5, 0.5, 6.857), (1.0, 1.0, "keep"), "trilinear")
    assert after.shape == (1, 4, 4, 5)
    slices = [resample(volume[..., [z]], (0.5, 0.5, 1.0), (1.0, 1.0, "keep"), "trilinear") for z in range(5)]
    assert torch.equal(after, torch.cat(slices, dim=-1))


def test_spacing_equal_up_to_the_precision_of_a_header_changes_no_bit() -> None:
    volume = torch.rand(1, 40, 50, 30, generator=torch.Generator().manual_seed(3))
    header = (float(np.float32(0.7)), 1.0, float(np.float32(1.1)))
    assert torch.equal(resample(volume, header, (0.7, 1.0, 1.1), "trilinear"), volume)
    assert resampled_shape((40, 50, 30), header, (0.7, 1.0, 1.1)) == (40, 50, 30)


@given(before=spacings, after=spacings)
def test_resampling_there_and_back_stays_within_the_stated_tolerance(before, after) -> None:
    # f(x, y, z) = sum over axes of cos(pi * mm / 40); |f''| <= (pi / 40)^2 along each axis.
    shape, affine = (12, 11, 10), centred_affine((12, 11, 10), before)
    field = torch.cos(places(affine, shape) * np.pi / 40).sum(0, keepdim=True)
    there = resample(field, before, after, "trilinear")
    back = undo_resample(there, shape, before, after, "trilinear")
    tolerance = sum((b**2 + a**2) / 8 for b, a in zip(before, after, strict=True)) * (np.pi / 40) ** 2
    new_affine = resampled_affine(affine, shape, before, after)
    corner = np.abs(new_affine[:3, :3] @ ((np.array(there.shape[-3:]) - 1) / 2))
    reach = np.minimum(corner, np.abs(affine[:3, 3]))  # beyond it a border was repeated
    inside = (
        places(affine, shape).abs() <= torch.from_numpy(reach - np.array(after))[:, None, None, None]
    ).all(0)
    assert back.shape == field.shape
    if inside.any():
        assert float((back - field)[0, inside].abs().max()) <= tolerance + 1e-9


@given(shape=sizes_of_two, factor=st.integers(2, 4))
def test_nearest_there_and_back_over_a_finer_grid_is_exact(shape, factor) -> None:
    labels = torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(4))
    before, after = (3.0, 3.0, 3.0), (3.0 / factor,) * 3
    there = resample(labels, before, after, "nearest")
    assert there.shape == tuple(size * factor for size in shape)
    assert torch.equal(undo_resample(there, shape, before, after, "nearest"), labels)


def test_resampling_never_leaves_the_range_of_its_input() -> None:
    volume = torch.rand(1, 9, 9, 9, generator=torch.Generator().manual_seed(5)) * 1e6
    after = resample(volume, (1.0, 1.0, 1.0), (0.37, 2.3, 1.7), "trilinear")
    assert float(after.min()) >= float(volume.min())
    assert float(after.max()) <= float(volume.max())


def test_the_affine_of_a_synthetic_volume_has_its_centre_at_zero() -> None:
    affine = centred_affine((4, 5, 6), (1.0, 2.0, 3.0))
    assert affine.dtype == np.float64
    assert spacing_of(affine) == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(affine @ [1.5, 2.0, 2.5, 1.0], [0, 0, 0, 1])
