"""The cache returns what was stored or nothing, and remembers digests only while they must hold."""

import errno
import hashlib
import os
import stat
import time

import pytest
import torch

import client.file_digests
from client.file_digests import SETTLED_NS, FileDigests
from client.volume_cache import VolumeCache, cache_key
from common.errors import ArtifactError, UnreadableVolumeError

KEY = cache_key(["exam", "spec"])


def tensors() -> dict[str, torch.Tensor]:
    volume = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return {"volume": volume, "label_map": torch.arange(60).reshape(3, 4, 5)}


def test_what_was_stored_comes_back_bit_for_bit(tmp_path) -> None:
    cache = VolumeCache(tmp_path / "a" / "cache")
    assert KEY not in cache
    assert cache.load(KEY) is None
    cache.store(KEY, tensors())
    assert KEY in VolumeCache(tmp_path / "a" / "cache")
    loaded = cache.load(KEY)
    assert loaded.keys() == tensors().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors().items())


def test_an_entry_altered_anywhere_counts_as_absent(tmp_path) -> None:
    cache = VolumeCache(tmp_path)
    cache.store(KEY, tensors())
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert cache.load(KEY) is None, position
    for length in (0, 4, 50, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert cache.load(KEY) is None
    path.write_bytes(whole)
    assert cache.load(KEY) is not None


def test_an_entry_under_another_key_counts_as_absent(tmp_path) -> None:
    cache, other = VolumeCache(tmp_path), cache_key(["another exam", "spec"])
    cache.store(KEY, tensors())
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / f"{other}.safetensors")
    assert cache.load(other) is None


def test_keys_tell_apart_what_differs_in_any_part_or_in_order() -> None:
    assert len({cache_key(p) for p in (["a", "b"], ["b", "a"], ["a"], ["ab"], [])}) == 5


def test_a_full_disk_leaves_the_old_entry_and_nothing_half_written(tmp_path, monkeypatch) -> None:
    cache = VolumeCache(tmp_path)
    cache.store(KEY, {"volume": torch.zeros(2)})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device \(free some disk space\)"):
        cache.store(KEY, tensors())
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.safetensors"]
    assert torch.equal(cache.load(KEY)["volume"], torch.zeros(2))


def test_only_the_site_s_user_may_look_into_the_cache(tmp_path) -> None:
    VolumeCache(tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/cache: the cache folder cannot be made: Not a directory"):
        VolumeCache(tmp_path / "file" / "cache")


@pytest.fixture
def old_file(tmp_path, monkeypatch):
    """A file hashed long after it was written, as far as the ledger can tell."""
    monkeypatch.setattr(client.file_digests.time, "time_ns", lambda: 2**62)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"first")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, old_file, monkeypatch) -> None:
    digests = FileDigests(tmp_path)
    assert digests.of(old_file) == sha256(b"first")
    digests.save()
    hashed = []
    real = client.file_digests.sha256_of_file
    monkeypatch.setattr(client.file_digests, "sha256_of_file", lambda p: hashed.append(p) or real(p))
    assert FileDigests(tmp_path).of(old_file) == sha256(b"first")
    assert hashed == [], "an unchanged file is not read again"
    old_file.write_bytes(b"other")  # the same size
    assert FileDigests(tmp_path).of(old_file) == sha256(b"other")


def test_a_file_exchanged_under_its_old_date_is_noticed(tmp_path, old_file) -> None:
    digests = FileDigests(tmp_path)
    digests.of(old_file)
    digests.save()
    before = old_file.stat()
    time.sleep(0.02)
    old_file.write_bytes(b"other")
    os.utime(old_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileDigests(tmp_path).of(old_file) == sha256(b"other")


def test_a_file_written_just_now_is_not_remembered(tmp_path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"first")
    digests = FileDigests(tmp_path)
    assert digests.of(path) == sha256(b"first")
    digests.save()
    assert list(tmp_path.iterdir()) == [path], f"younger than {SETTLED_NS / 1e9:g} s"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 3}', '{"a": [1, 2]}'])
def test_a_damaged_ledger_only_costs_time(tmp_path, old_file, content) -> None:
    (tmp_path / "file_digests.json").write_text(content)
    assert FileDigests(tmp_path).of(old_file) == sha256(b"first")


def test_a_dangling_link_is_named(tmp_path) -> None:
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(UnreadableVolumeError, match=r"a\.nii\.gz cannot be read: No such file"):
        FileDigests(tmp_path).of(tmp_path / "a.nii.gz")
