"""Every way a file can be wrong has its own sentence; every way to write it right gives the same volume."""

import contextlib
import gzip
import hashlib
import os
import struct
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.nifti_reader import read_volume
from common.errors import DataError, NonFiniteVolumeError, UnreadableVolumeError, VolumeShapeError
from common.volume.geometry import Orientation

AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0, 2, -7], [0, -1, 0, 12], [0, 0, 0, 1.0]])


def voxels(*shape: int, dtype=np.float32) -> np.ndarray:
    return (np.random.default_rng(0).random(shape or (5, 6, 7)) * 200).astype(dtype)


def write(path: Path, content: np.ndarray, affine: np.ndarray = AFFINE, image=nib.Nifti1Image) -> Path:
    path.write_bytes(gzip.compress(image(content, affine).to_bytes(), mtime=0))
    return path


def test_a_volume_comes_as_it_was_written(tmp_path) -> None:
    path = write(tmp_path / "a.nii.gz", voxels())
    raw = read_volume(path)
    np.testing.assert_array_equal(raw.voxels, voxels())
    np.testing.assert_array_equal(raw.affine, AFFINE)
    assert raw.voxels.dtype == np.float32
    assert raw.affine.dtype == np.float64
    assert raw.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    # x runs to the left, y downwards, z to the front: RAS is -x, z, -y.
    assert raw.orientation == Orientation(order=(0, 2, 1), flipped=(True, False, True))


@pytest.mark.parametrize("name", ["a.nii", "a b.nii.gz", "A.NII.GZ", "ä.nii.gz", "no-ending"])
def test_the_content_counts_not_the_name(tmp_path, name) -> None:
    packed = write(tmp_path / name, voxels())
    np.testing.assert_array_equal(read_volume(packed).voxels, voxels())
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    np.testing.assert_array_equal(read_volume(packed).voxels, voxels())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_real_type_and_both_nifti_versions_are_read(tmp_path, dtype, image) -> None:
    path = write(tmp_path / "a.nii.gz", voxels(dtype=dtype), image=image)
    np.testing.assert_array_equal(read_volume(path).voxels, voxels(dtype=dtype).astype(np.float32))


def test_a_file_from_a_big_endian_machine_is_read(tmp_path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(voxels(dtype=np.int16), AFFINE, header)
    assert struct.unpack(">i", image.to_bytes()[:4]) == (348,)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").voxels, voxels(dtype=np.int16))


def test_slope_and_intercept_are_applied(tmp_path) -> None:
    image = nib.Nifti1Image(voxels(dtype=np.int16), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    content = bytearray(image.to_bytes())
    content[112:120] = struct.pack("<ff", 2.0, -1024.0)  # scl_slope and scl_inter
    (tmp_path / "ct.nii").write_bytes(content)
    expected = voxels(dtype=np.int16).astype(np.float32) * 2 - 1024
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii").voxels, expected)


def test_a_fourth_axis_of_one_is_harmless(tmp_path) -> None:
    path = write(tmp_path / "a.nii.gz", voxels(5, 6, 7, 1))
    assert read_volume(path).voxels.shape == (5, 6, 7)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((5, 6, 7, 3), r"4 axes \(5 x 6 x 7 x 3\).*one file per channel"),
        ((5, 6, 7, 1, 3), r"5 axes"),
        ((5, 6), r"single image \(5 x 6\)"),
        ((5, 6, 1), r"single image \(5 x 6 x 1\).*stack the slices"),
    ],
)
def test_an_unexpected_shape_is_refused(tmp_path, shape, says) -> None:
    with pytest.raises(VolumeShapeError, match=says):
        read_volume(write(tmp_path / "a.nii.gz", voxels(*shape)))


def test_a_file_cut_off_anywhere_is_refused(tmp_path) -> None:
    packed = write(tmp_path / "a.nii.gz", voxels())
    content = packed.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        packed.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableVolumeError, match=r"a\.nii\.gz is (truncated|not a NIfTI|empty)"):
            read_volume(packed)
    plain = tmp_path / "a.nii"
    for length in (100, 347, 352, 400, len(gzip.decompress(content)) - 1):
        plain.write_bytes(gzip.decompress(content)[:length])
        with pytest.raises(UnreadableVolumeError, match=r"a\.nii "):
            read_volume(plain)


def test_a_flipped_bit_in_the_compressed_data_is_noticed(tmp_path) -> None:
    path = write(tmp_path / "a.nii.gz", voxels())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableVolumeError, match="truncated or damaged"):
        read_volume(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"patient,age\n1,50\n", "is not a NIfTI file"),
        (b"\x00" * 500, "is not a NIfTI file"),
        (b"DICM" * 300, "is not a NIfTI file"),
        (
            struct.pack("<i", 348) + b"\x00" * 340 + b"ni1\0" + bytes(200),
            "one half of a header and image pair",
        ),
    ],
)
def test_what_is_not_nifti_is_refused(tmp_path, content, says) -> None:
    path = tmp_path / "a.nii.gz"
    for packed in (content, gzip.compress(content)):
        path.write_bytes(packed)
        with pytest.raises(UnreadableVolumeError, match=says):
            read_volume(path)


def test_a_header_that_promises_a_terabyte_costs_no_memory(tmp_path) -> None:
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[42:48] = struct.pack("<hhh", 32000, 32000, 1000)  # dim[1..3]
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UnreadableVolumeError, match=r"truncated: 840 of 4096000000000 bytes"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("position", "value"),
    [(42, struct.pack("<h", -5)), (70, struct.pack("<h", 9999)), (108, struct.pack("<f", float("nan")))],
    ids=["negative size", "unknown type", "data begin at NaN"],
)
def test_a_damaged_header_is_refused(tmp_path, position, value) -> None:
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[position : position + len(value)] = value
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UnreadableVolumeError, match=r"a\.nii "):
        read_volume(tmp_path / "a.nii")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_damage_to_a_header_gives_anything_but_a_named_error(damage) -> None:
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    for position, value in damage:
        content[position] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nii")
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            raw = read_volume(path)
            assert raw.voxels.ndim == 3
            assert np.isfinite(raw.voxels).all()
            assert sorted(raw.orientation.order) == [0, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_without_a_value_are_counted_and_refused(tmp_path, value) -> None:
    content = voxels()
    content[1, 2, 3] = content[2, 2, 3] = value
    with pytest.raises(NonFiniteVolumeError, match="2 of 210 voxels"):
        read_volume(write(tmp_path / "a.nii.gz", content))


def test_a_double_too_large_for_single_precision_is_refused(tmp_path) -> None:
    content = voxels(dtype=np.float64)
    content[0, 0, 0] = 1e300
    with pytest.raises(NonFiniteVolumeError, match="1 of 210"):
        read_volume(write(tmp_path / "a.nii.gz", content))


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_and_coloured_voxels_are_refused(tmp_path, dtype) -> None:
    path = write(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), dtype=dtype))
    with pytest.raises(UnreadableVolumeError, match="not real numbers"):
        read_volume(path)


def test_an_affine_that_flattens_space_is_refused(tmp_path) -> None:
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    with pytest.raises(VolumeShapeError, match="does not place its voxels"):
        read_volume(write(tmp_path / "a.nii.gz", voxels(), flat))
    content = bytearray(nib.Nifti1Image(voxels(), AFFINE).to_bytes())
    content[280:328] = bytes(48)  # all rows of the sform
    (tmp_path / "b.nii").write_bytes(content)
    with pytest.raises(VolumeShapeError, match="does not place its voxels"):
        read_volume(tmp_path / "b.nii")


def test_links_are_followed_and_a_dangling_one_is_named(tmp_path) -> None:
    target = write(tmp_path / "target.nii.gz", voxels())
    link = tmp_path / "link.nii.gz"
    link.symlink_to(target)
    np.testing.assert_array_equal(read_volume(link).voxels, voxels())
    target.unlink()
    with pytest.raises(UnreadableVolumeError, match=r"link\.nii\.gz points to a file that is gone"):
        read_volume(link)


def test_a_folder_and_a_missing_file_are_named(tmp_path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(UnreadableVolumeError, match="is a folder"):
        read_volume(tmp_path / "a.nii.gz")
    with pytest.raises(UnreadableVolumeError, match=r"b\.nii\.gz is gone"):
        read_volume(tmp_path / "b.nii.gz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path) -> None:
    path = write(tmp_path / "a.nii.gz", voxels())
    path.chmod(0)
    with pytest.raises(UnreadableVolumeError, match="Permission denied"):
        read_volume(path)
