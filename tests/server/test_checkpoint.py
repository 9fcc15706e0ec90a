"""Checkpoints: the newest complete one wins, and only its own study may use it."""

import pytest
import torch

from common.errors import ArtifactError
from common.federation.stage import Stage
from server.checkpoint import CheckpointStore
from server.events import EventLog
from server.state import GlobalState


def state(stage=Stage.CODEC, round_index=1, value=1.0):
    return GlobalState(stage, round_index, codec={"codec.w": torch.tensor([value])})


def test_the_newest_round_of_the_later_stage_is_loaded(tmp_path):
    store = CheckpointStore(tmp_path, "d")
    for stage, index in ((Stage.CODEC, 9), (Stage.CODEC, 10), (Stage.DIFFUSION, 1)):
        store.save(state(stage, index, value=float(index)))
    loaded = store.load_newest()
    assert (loaded.stage, loaded.round_index) == (Stage.DIFFUSION, 1)
    assert loaded.codec["codec.w"].item() == 1.0


def test_only_the_newest_two_of_a_stage_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, "d")
    for index in (1, 2, 3, 10000):
        store.save(state(round_index=index))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec-0003", "codec-10000"]
    assert store.load_newest().round_index == 10000


def test_a_damaged_newest_falls_back_and_all_damaged_is_an_error(tmp_path):
    store = CheckpointStore(tmp_path, "d")
    store.save(state(round_index=1))
    store.save(state(round_index=2))
    (tmp_path / "codec-0002" / "manifest.json").write_text("{")
    assert store.load_newest().round_index == 1
    (tmp_path / "codec-0001" / "codec.safetensors").unlink()
    with pytest.raises(ArtifactError):
        store.load_newest()


def test_another_studys_checkpoint_is_refused(tmp_path):
    CheckpointStore(tmp_path, "d").save(state())
    with pytest.raises(ArtifactError, match="another study"):
        CheckpointStore(tmp_path, "e").load_newest()


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointStore(tmp_path / "absent", "d").load_newest() is None


def test_an_event_after_a_crash_does_not_join_the_truncated_line(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("a", x=1)
    with log.path.open("ab") as file:
        file.write(b'{"event":"trunc')
    log.append("b", x=2)
    lines = log.path.read_text().splitlines()
    assert len(lines) == 3
    assert '"event":"b"' in lines[2]
