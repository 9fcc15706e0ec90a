"""Tensors on the disk: the same as in memory, gone with their report, none left of a killed server."""

import errno
import gc
from pathlib import Path

import pytest
import torch

from common.errors import ArtifactError, WireError
from common.federation.packing import tensors_to_bytes
from server.spool import Spool

TENSORS = {"b": torch.randn(3, 4), "a": torch.tensor(2.5), "c": torch.zeros(0, dtype=torch.float64)}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def test_tensors_come_back_bit_for_bit_in_name_order(folder):
    kept = Spool(folder).keep(tensors_to_bytes(TENSORS))
    assert list(kept) == ["a", "b", "c"]
    assert len(kept) == 3
    for name, tensor in TENSORS.items():
        assert kept[name].dtype == tensor.dtype
        assert torch.equal(kept[name], tensor)


def test_what_is_read_is_the_reader_s_own(folder):
    kept = Spool(folder).keep(tensors_to_bytes(TENSORS))
    kept["b"].zero_()
    assert torch.equal(kept["b"], TENSORS["b"])


def test_an_unknown_name_is_a_key_error(folder):
    with pytest.raises(KeyError):
        Spool(folder).keep(tensors_to_bytes(TENSORS))["d"]


def test_a_file_is_removed_with_its_report(folder):
    spool = Spool(folder)
    first, second = spool.keep(tensors_to_bytes(TENSORS)), spool.keep(tensors_to_bytes(TENSORS))
    assert len(list(folder.iterdir())) == 2
    del first
    gc.collect()
    assert len(list(folder.iterdir())) == 1
    assert torch.equal(second["b"], TENSORS["b"])


def test_what_a_killed_server_left_is_removed(folder):
    folder.mkdir()
    (folder / "left.safetensors").write_bytes(b"x")
    Spool(folder)
    assert not folder.exists()


def test_no_tensors_are_refused_and_leave_nothing(folder):
    spool = Spool(folder)
    with pytest.raises(WireError):
        spool.keep(b"no tensors at all")
    assert not list(folder.iterdir())


def test_a_full_disk_is_named_and_leaves_nothing(folder, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match="No space left"):
        Spool(folder).keep(tensors_to_bytes(TENSORS))
    assert not list(folder.iterdir())
