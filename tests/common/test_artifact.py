"""A folder of tensors is complete or absent, whatever happens while it is written."""

import errno
from pathlib import Path

import pytest
import torch

from common import artifact
from common.artifact import (
    digest_of_tensors,
    read_tensor_folder,
    write_tensor_folder,
    write_text_atomic,
)
from common.errors import ArtifactError

GROUPS = {"codec": {"w": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(3.0)}, "empty": {}}


def test_what_was_written_is_read(tmp_path):
    write_tensor_folder(tmp_path / "a", GROUPS, {"round": 3})
    groups, manifest = read_tensor_folder(tmp_path / "a")
    assert manifest["round"] == 3
    assert groups.keys() == {"codec"}
    for name, tensor in GROUPS["codec"].items():
        assert torch.equal(groups["codec"][name], tensor)


def test_one_changed_byte_is_noticed(tmp_path):
    write_tensor_folder(tmp_path / "a", GROUPS, {})
    path = tmp_path / "a" / "codec.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="altered"):
        read_tensor_folder(tmp_path / "a")


@pytest.mark.parametrize("damage", ["manifest.json", "codec.safetensors"])
def test_a_missing_file_is_noticed(tmp_path, damage):
    write_tensor_folder(tmp_path / "a", GROUPS, {})
    (tmp_path / "a" / damage).unlink()
    with pytest.raises(ArtifactError):
        read_tensor_folder(tmp_path / "a")


def test_a_full_disk_leaves_the_old_folder_and_no_litter(tmp_path, monkeypatch):
    write_tensor_folder(tmp_path / "a", GROUPS, {"round": 1})
    real = artifact.save_file

    def full(tensors, path):
        real(tensors, path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_tensor_folder(tmp_path / "a", GROUPS, {"round": 2})
    assert read_tensor_folder(tmp_path / "a")[1]["round"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_replace_puts_the_old_folder_back(tmp_path, monkeypatch):
    write_tensor_folder(tmp_path / "a", GROUPS, {"round": 1})
    real = Path.rename

    def rename(self, target):
        if "partial" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ArtifactError, match="Input/output"):
        write_tensor_folder(tmp_path / "a", GROUPS, {"round": 2})
    monkeypatch.undo()
    assert read_tensor_folder(tmp_path / "a")[1]["round"] == 1


def test_a_text_file_is_old_or_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text_atomic(path, "old")
    monkeypatch.setattr(artifact.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(ArtifactError, match="full"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_digest_sees_names_shapes_dtypes_and_bits():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    digest = digest_of_tensors(base)
    assert digest == digest_of_tensors(dict(reversed(list(base.items()))))
    for changed in (
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.nextafter(torch.ones(1), torch.tensor(2.0))},
    ):
        assert digest_of_tensors(changed) != digest
