"""A study that will not fit is refused before it begins, by the disk that is too full."""

import shutil
from collections import namedtuple

import pytest

from common.errors import RunError
from deploy.disk_need import SPARE_BYTES, disk_need, refuse_full_disk
from tests.small_federation import small_study


def test_it_grows_with_sites_and_model():
    few, many = small_study(("a", "b")), small_study(("a", "b", "c", "d"))
    larger = small_study(("a", "b"), codec__model__channels=64)
    assert SPARE_BYTES < disk_need(few) < disk_need(many)
    assert disk_need(few) < disk_need(larger)


def test_the_full_disk_is_named(tmp_path, monkeypatch):
    study = small_study(("a", "b"))
    room, full = tmp_path / "room", tmp_path / "full"
    usage = namedtuple("usage", "total used free")
    need = disk_need(study)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, need - (path == full)))
    refuse_full_disk(study, room)
    with pytest.raises(RunError, match=r"GB are free in .*full"):
        refuse_full_disk(study, room, full)
