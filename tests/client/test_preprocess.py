"""One exam to one volume: the same whatever way it was stored, and back where it came from."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff

from client.nifti_reader import read_volume
from client.preprocess import preprocess
from common.errors import ConstantVolumeError, DataError, VolumeShapeError
from common.volume.geometry import undo_crop_or_pad, undo_reorient, undo_resample
from common.volume.spec import FixedWindow, PercentileWindow, VolumeSpec

WHOLE = PercentileWindow(low=0, high=100)
RAS = np.array([[0.5, 0, 0, -3], [0, 1, 0, 2], [0, 0, 2, 5], [0, 0, 0, 1.0]])


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = RAS) -> Path:
    path.write_bytes(gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes(), compresslevel=1))
    return path


def a_spec(shape=(6, 8, 4), spacing=(1, 1, 2), **changes) -> VolumeSpec:
    return VolumeSpec(**{"shape": shape, "spacing_mm": spacing, "intensity": WHOLE, **changes})


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32) * 900


def test_all_48_orientations_of_one_volume_become_the_same(tmp_path) -> None:
    voxels = noise(10, 7, 5)
    expected = preprocess([write(tmp_path / "ras.nii.gz", voxels)], None, a_spec())
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turns = np.array([order, signs]).T
            turned = apply_orientation(voxels, turns)
            affine = RAS @ inv_ornt_aff(turns, voxels.shape)
            path = write(tmp_path / "turned.nii.gz", np.ascontiguousarray(turned), affine)
            made = preprocess([path], None, a_spec())
            assert torch.equal(made.volume, expected.volume), (order, signs)
            np.testing.assert_allclose(made.affine, expected.affine, atol=1e-5)


def test_an_exam_finds_its_way_back(tmp_path) -> None:
    # Exact up to what was clipped and cropped when the spacing stays: here one float32 rounding of
    # 900 intensities on the way there and one on the way back.
    left_posterior = RAS @ np.diag([-1.0, -1, 1, 1])
    path = write(tmp_path / "a.nii.gz", noise(12, 7, 5), left_posterior)
    spec = a_spec(shape=(8, 16, 5), spacing=(0.5, 1, 2))
    made, raw = preprocess([path], None, spec), read_volume(path)
    oriented = (12, 7, 5)
    back = undo_crop_or_pad(made.window.denormalize(made.volume), oriented, fill=float("nan"))
    back = undo_resample(back, oriented, (0.5, 1, 2), spec.spacing_mm, "trilinear")
    back = undo_reorient(back, raw.orientation)[0].numpy()
    kept = np.isfinite(back)
    assert kept.sum() == 8 * 7 * 5
    np.testing.assert_allclose(back[kept], raw.voxels[kept], atol=900 * 2**-22)


def test_the_affine_says_where_each_voxel_came_from(tmp_path) -> None:
    # Intensity is the x coordinate in mm: the preprocessed voxel must agree with its own affine.
    affine = RAS @ np.diag([-1.0, 1, 1, 1])
    index = np.indices((10, 7, 5)).reshape(3, -1)
    millimetres = (affine[:3, :3] @ index + affine[:3, 3:])[0].reshape(10, 7, 5).astype(np.float32)
    made = preprocess([write(tmp_path / "a.nii.gz", millimetres, affine)], None, a_spec(shape=(3, 3, 3)))
    recovered = made.window.denormalize(made.volume)[0].numpy()
    expected = (made.affine @ [[0, 1, 2], [0] * 3, [0] * 3, [1] * 3])[0]
    np.testing.assert_allclose(recovered[:, 1, 1], expected, atol=1e-5)


def test_padding_is_background_and_comes_after_the_window(tmp_path) -> None:
    bright = noise(4, 4, 4) + 500
    path = write(tmp_path / "a.nii.gz", bright, np.eye(4))
    made = preprocess([path], None, a_spec(shape=(4, 4, 10), spacing=(1, 1, 1)))
    assert (made.window.low, made.window.high) == (bright.min(), bright.max())
    assert (made.volume[..., :3] == -1).all()
    assert (made.volume[..., 7:] == -1).all()
    assert (made.volume[..., 3:7] > -1).sum() == bright.size - 1


def test_the_study_s_shape_does_not_move_the_window(tmp_path) -> None:
    path = write(tmp_path / "a.nii.gz", noise(10, 8, 6))
    windows = {preprocess([path], None, a_spec(shape=s)).window for s in ((2, 2, 2), (6, 8, 4), (40, 40, 40))}
    assert len(windows) == 1


def test_the_channels_of_an_exam_share_one_window(tmp_path) -> None:
    pre = noise(6, 6, 6)
    paths = [write(tmp_path / f"a_{i:04d}.nii.gz", pre * gain) for i, gain in enumerate((1, 4))]
    spec = a_spec(shape=(6, 6, 6), spacing=("keep",) * 3, channels=("pre", "post"))
    made = preprocess(paths, None, spec)
    back = made.window.denormalize(made.volume)
    torch.testing.assert_close(back[1], 4 * back[0], atol=1e-3, rtol=1e-4)


def test_labels_lie_on_their_volume(tmp_path) -> None:
    labels = (noise(10, 8, 6, seed=3) // 300).astype(np.uint8)
    image = write(tmp_path / "image.nii.gz", labels.astype(np.float32))
    label_file = write(tmp_path / "label.nii.gz", labels)
    spec = a_spec(shape=(16, 10, 4), spacing=("keep",) * 3, intensity=FixedWindow(low=0, high=2))
    made = preprocess([image], label_file, spec)
    assert made.label_map.dtype == torch.int64
    assert torch.equal(made.window.denormalize(made.volume)[0].long(), made.label_map)
    resampled = preprocess([image], label_file, a_spec(spacing=(0.3, 0.7, 1.1)))
    assert set(resampled.label_map.unique().tolist()) <= {0, 1, 2}, "nearest invents no label"


@pytest.mark.parametrize(
    ("second", "affine", "says"),
    [
        (noise(6, 6, 5), RAS, "6 x 6 x 5 voxels, a.nii.gz has 6 x 6 x 6"),
        (noise(6, 6, 6), RAS, None),
        (noise(6, 6, 6), RAS @ np.diag([-1.0, 1, 1, 1]), "mm away from a.nii.gz of the same exam"),
    ],
    ids=["shape", "same", "mirrored"],
)
def test_channels_must_share_their_voxels(tmp_path, second, affine, says) -> None:
    paths = [write(tmp_path / "a.nii.gz", noise(6, 6, 6)), write(tmp_path / "b.nii.gz", second, affine)]
    spec = a_spec(channels=("pre", "post"))
    if says is None:
        preprocess(paths, None, spec)
        return
    with pytest.raises(VolumeShapeError, match=says):
        preprocess(paths, None, spec)
    with pytest.raises(VolumeShapeError, match=says):
        preprocess(paths[:1], paths[1], a_spec())


def test_a_table_that_moved_between_phases_is_refused_and_header_rounding_is_not(tmp_path) -> None:
    paths = [write(tmp_path / f"{i}.nii.gz", noise(6, 6, 6)) for i in range(2)]
    for shift, allowed in ((0.04, True), (0.06, False)):  # a tenth of the 0.5 mm voxel is 0.05 mm
        moved = RAS.copy()
        moved[0, 3] += shift
        write(paths[1], noise(6, 6, 6), moved)
        if allowed:
            preprocess(paths, None, a_spec(channels=("pre", "post")))
        else:
            with pytest.raises(VolumeShapeError, match=r"0\.06 mm away"):
                preprocess(paths, None, a_spec(channels=("pre", "post")))


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_probabilities_are_no_labels(tmp_path, value) -> None:
    image = write(tmp_path / "a.nii.gz", noise(6, 6, 6))
    label_file = write(tmp_path / "b.nii.gz", np.full((6, 6, 6), value, dtype=np.float32))
    with pytest.raises(DataError, match=r"b\.nii\.gz holds values that are not whole labels"):
        preprocess([image], label_file, a_spec())


@pytest.mark.parametrize(
    ("millimetres", "says"), [(1000.0, "6000 voxels along x"), (0.001, "1 voxels along x")]
)
def test_a_spacing_in_another_unit_is_refused(tmp_path, millimetres, says) -> None:
    path = write(tmp_path / "a.nii.gz", noise(6, 6, 6), np.diag([millimetres] * 3 + [1]))
    with pytest.raises(VolumeShapeError, match=says):
        preprocess([path], None, a_spec(spacing=(1, 1, 1)))
    preprocess([path], None, a_spec(spacing=("keep",) * 3))


def test_a_constant_exam_is_refused_with_its_file(tmp_path) -> None:
    path = write(tmp_path / "empty scan.nii.gz", np.full((6, 6, 6), 3, dtype=np.int16))
    with pytest.raises(ConstantVolumeError, match=r"empty scan\.nii\.gz: the intensity window from 3 to 3"):
        preprocess([path], None, a_spec())
