"""What TensorBoard reads back is what the event log said."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.volume.spec import VolumeSpec
from experiments.montage import montage
from experiments.report.data import Picture
from experiments.report.history import RunHistory
from experiments.report.tensorboard import write_tensorboard


def history(losses):
    return RunHistory.from_events(
        {
            "event": "round_finished",
            "stage": "codec",
            "round": k,
            "seconds": 2.5,
            "bytes_up": 10,
            "bytes_down": 20,
            "sites": {"a": {"seconds": 1.0, "metrics": {"loss": loss}}},
        }
        for k, loss in enumerate(losses, start=1)
    )


def read_back(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder, tag):
    return [(event.step, event.value) for event in read_back(folder).Scalars(tag)]


def test_scalars_have_the_round_as_step(tmp_path):
    write_tensorboard(history([0.5, 0.25]), tmp_path)
    assert scalars(tmp_path, "codec/loss/a") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path, "codec/seconds") == [(1, 2.5), (2, 2.5)]
    assert scalars(tmp_path, "codec/bytes_up") == [(1, 10.0), (2, 10.0)]
    assert scalars(tmp_path, "codec/bytes_down") == [(1, 20.0), (2, 20.0)]


def test_writing_again_replaces(tmp_path):
    write_tensorboard(history([0.5]), tmp_path)
    write_tensorboard(history([0.5, 0.25]), tmp_path)
    assert scalars(tmp_path, "codec/loss/a") == [(1, 0.5), (2, 0.25)]


def test_values_that_are_not_finite_are_left_out(tmp_path):
    write_tensorboard(history([0.5, math.nan]), tmp_path)
    assert scalars(tmp_path, "codec/loss/a") == [(1, 0.5)]


def test_pictures_are_shown(tmp_path):
    spec = VolumeSpec(shape=(16, 16, 16), spacing_mm=(1, 1, 1))
    path = montage({"a": torch.zeros(1, 1, 16, 16, 16)}, tmp_path / "m.png", spec)
    write_tensorboard(history([0.5]), tmp_path / "board", [Picture(path, "volumes", "")])
    image = read_back(tmp_path / "board").Images("volumes")[0]
    assert image.width == 1600


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_tensorboard(history([0.5]), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert pytest.approx(0.5) == scalars(tmp_path, "codec/loss/a")[0][1]
