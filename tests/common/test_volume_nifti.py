"""Written files: right place, right range, the same bytes every time, never half of them."""

import errno
import gzip
import hashlib
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from common.errors import ArtifactError, NonFiniteVolumeError, VolumeShapeError
from common.volume.nifti import write_label_map, write_volume
from common.volume.spec import VolumeSpec


def a_spec(channels=("image",), spacing=(0.5, 1.0, 2.0), **changes) -> VolumeSpec:
    return VolumeSpec(shape=(4, 5, 6), spacing_mm=spacing, channels=channels, **changes)


def a_volume(channels: int = 1) -> torch.Tensor:
    return torch.rand(channels, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_reader_finds_the_volume_where_the_spec_says(tmp_path) -> None:
    volume = a_volume()
    (path,) = write_volume(tmp_path / "synthetic_0003", volume, a_spec(output_range=(-1000.0, 1000.0)))
    image = nib.load(path)
    assert path.name == "synthetic_0003.nii.gz"
    assert image.get_data_dtype() == np.float32
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == (0.5, 1.0, 2.0)
    np.testing.assert_allclose(image.affine @ [1.5, 2.0, 2.5, 1.0], [0, 0, 0, 1], atol=1e-6)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (2, 2)
    np.testing.assert_array_equal(image.get_qform(), image.get_sform())
    np.testing.assert_allclose(image.get_fdata(), volume[0].double().numpy() * 1000, atol=1e-4)


def test_each_channel_is_a_file_of_its_own_in_order(tmp_path) -> None:
    volume = a_volume(3)
    paths = write_volume(tmp_path / "exam 7.b", volume, a_spec(("pre", "early", "late")))
    assert [path.name for path in paths] == [f"exam 7.b_000{i}.nii.gz" for i in range(3)]
    read = np.stack([nib.load(path).get_fdata() for path in paths])
    np.testing.assert_allclose(read, (volume.double().numpy() + 1) * 500, atol=1e-4)


def test_an_axis_that_says_keep_is_written_with_the_nominal_spacing(tmp_path) -> None:
    spec = a_spec(spacing=(1, 1, "keep"), nominal_spacing_mm=6.5)
    (path,) = write_volume(tmp_path / "a", a_volume(), spec)
    assert nib.load(path).header.get_zooms() == (1.0, 1.0, 6.5)


def test_what_a_decoder_puts_outside_the_range_is_clipped(tmp_path) -> None:
    volume = a_volume() * 3
    (path,) = write_volume(tmp_path / "a", volume, a_spec(output_range=(0.0, 255.0)))
    voxels = nib.load(path).get_fdata()
    assert (voxels.min(), voxels.max()) == (0.0, 255.0)


def test_the_same_volume_gives_the_same_bytes_under_any_name(tmp_path) -> None:
    (first,) = write_volume(tmp_path / "a", a_volume(), a_spec())
    (second,) = write_volume(tmp_path / "b", a_volume(), a_spec())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
    assert len(digests) == 1
    header = first.read_bytes()[:10]
    assert header[3] == 0, "gzip must not hold a file name"
    assert header[4:8] == bytes(4), "gzip must not hold a time"
    # What no compressor can change: the file below the compression.
    content = gzip.decompress(first.read_bytes())
    assert len(content) == 352 + 4 * 5 * 6 * 4
    assert content[344:348] == b"n+1\0"


def test_labels_survive_and_use_the_smallest_type(tmp_path) -> None:
    labels = torch.randint(0, 7, (4, 5, 6), generator=torch.Generator().manual_seed(0))
    image = nib.load(write_label_map(tmp_path / "a", labels, a_spec()))
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels.numpy())
    wide = nib.load(write_label_map(tmp_path / "b", labels + 1000, a_spec()))
    assert wide.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(wide.dataobj), labels.numpy() + 1000)


def test_a_label_map_lies_on_its_volume(tmp_path) -> None:
    (volume,) = write_volume(tmp_path / "a", a_volume(), a_spec())
    label_map = write_label_map(tmp_path / "b", torch.zeros(4, 5, 6, dtype=torch.long), a_spec())
    np.testing.assert_array_equal(nib.load(volume).affine, nib.load(label_map).affine)


@pytest.mark.parametrize("label", [-1, 40000])
def test_a_label_that_no_small_integer_holds_is_refused(tmp_path, label) -> None:
    with pytest.raises(VolumeShapeError, match=str(label)):
        write_label_map(tmp_path / "a", torch.full((4, 5, 6), label), a_spec())
    assert not list(tmp_path.iterdir())


def test_the_wrong_number_of_channels_is_refused(tmp_path) -> None:
    with pytest.raises(VolumeShapeError, match=r"\(2, 4, 5, 6\) as 1 channel"):
        write_volume(tmp_path / "a", a_volume(2), a_spec())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_volume_is_refused(tmp_path, value) -> None:
    volume = a_volume()
    volume[0, 1, 2, 3] = value
    with pytest.raises(NonFiniteVolumeError, match="NaN or infinite"):
        write_volume(tmp_path / "a", volume, a_spec())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_no_file_of_the_exam(tmp_path, monkeypatch) -> None:
    calls = []
    real = os.fsync

    def full_at_the_third(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_volume(tmp_path / "a", a_volume(3), a_spec(("pre", "early", "late")))
    assert not list(tmp_path.iterdir())
