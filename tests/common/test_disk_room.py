"""What will not fit is refused before it is begun, by the disk that is too full."""

import shutil
from collections import namedtuple

import pytest

from common.disk_room import refuse_full_disk
from common.errors import ArtifactError, ErrorCode

Usage = namedtuple("Usage", "total used free")


def test_the_full_disk_is_named_and_another_is_not(tmp_path, monkeypatch):
    room, full = tmp_path / "room", tmp_path / "full"
    room.mkdir()
    full.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 1000 - (path == full)))
    assert refuse_full_disk(room, 1000, "a study") == 1000
    with pytest.raises(ArtifactError, match=r"GB are free in .*full, and a study may fill") as caught:
        refuse_full_disk(full, 1000, "a study")
    assert caught.value.code is ErrorCode.DISK


def test_a_folder_that_does_not_exist_yet_is_asked_for_where_it_will_be(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or Usage(9, 9, 9))
    refuse_full_disk(tmp_path / "not" / "yet", 1, "a study")
    assert asked == [tmp_path]
