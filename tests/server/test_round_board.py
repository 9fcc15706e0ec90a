"""What people who watch are told of the round at hand."""

import pytest

from common.artifact import read_snapshot
from common.federation.messages import TrainOrder
from common.federation.stage import Stage
from server.round_board import ANSWERED, NOT_ADMITTED, NOT_CONNECTED, SILENT, TRAINS, RoundBoard, in_words


@pytest.fixture
def board(tmp_path):
    made = RoundBoard(tmp_path / "round.json")
    orders = [TrainOrder("d", site, Stage.CODEC, 3, {}, attempt=2) for site in ("c", "a", "b")]
    made.open(orders, 60.0)
    return made


def test_the_file_says_round_attempt_deadline_and_how_the_sites_stand(board):
    board.note("a", TRAINS, 0.4)
    facts = read_snapshot(board.path)
    assert (facts["stage"], facts["round"], facts["attempt"]) == ("codec", 3, 2)
    assert facts["deadline"] == pytest.approx(facts["began"] + 60.0)
    assert facts["sites"]["a"]["state"] == TRAINS
    assert facts["sites"]["a"]["fraction"] == 0.4
    assert facts["sites"]["b"]["state"] == "not asked yet"


def test_why_a_site_is_sent_nothing_is_said_once_and_keeps_the_time_of_its_beginning(board, monkeypatch):
    board.note_absent("a", NOT_CONNECTED)
    began = read_snapshot(board.path)["sites"]["a"]
    assert began["state"] == "not connected"
    monkeypatch.setattr("time.time", lambda: began["time"] + 100.0)
    board.note_absent("a", NOT_CONNECTED)
    assert read_snapshot(board.path)["sites"]["a"] == began
    board.note_absent("a", NOT_ADMITTED)
    assert read_snapshot(board.path)["sites"]["a"]["state"] == "revoked or not enrolled"


def test_another_round_begins_anew(board):
    board.note("a", ANSWERED)
    board.open([TrainOrder("d", "b", Stage.DIFFUSION, 1, {})], 5.0)
    assert list(read_snapshot(board.path)["sites"]) == ["b"]


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_no_board_yet_is_no_error(tmp_path, content):
    if content is not None:
        (tmp_path / "round.json").write_text(content)
    assert in_words(read_snapshot(tmp_path / "round.json"), 0.0) == {}


def facts(**states):
    sites = {s: {"state": state, "fraction": f, "time": time} for s, (state, f, time) in states.items()}
    return {"began": 100.0, "sites": sites}


def test_words_and_who_is_late():
    at = facts(a=(ANSWERED, 1.0, 110.0), b=(ANSWERED, 1.0, 120.0), c=(TRAINS, 0.4, 130.0))
    assert in_words(at, 139.0) == {"a": "answered", "b": "answered", "c": "trains, 40% (9 s ago)"}
    assert in_words(at, 141.0)["c"] == "late, trains, 40% (11 s ago)"


def test_nobody_is_late_before_half_have_answered():
    at = facts(a=(ANSWERED, 1.0, 101.0), b=(SILENT, 0.0, 150.0), c=("E_DISK", 0.0, 150.0))
    assert in_words(at, 1000.0) == {"a": "answered", "b": "no answer (850 s ago)", "c": "E_DISK (850 s ago)"}


def test_a_board_that_cannot_be_written_stops_nothing(tmp_path):
    board = RoundBoard(tmp_path / "no" / "such" / "folder" / "round.json")
    board.open([TrainOrder("d", "a", Stage.CODEC, 1, {})], 1.0)
    board.note("a", ANSWERED)
    assert board.word_of("a") == ANSWERED
