"""Event logs of killed, resumed and strange runs become the right history."""

import json

import pytest

from common.errors import RunError
from experiments.report.history import RunHistory
from server.events import read_events


def finished(stage, round_index, loss=0.5, sites=("a", "b"), **facts):
    return {
        "event": "round_finished",
        "stage": stage,
        "round": round_index,
        "seconds": 2.0,
        "bytes_up": 10,
        "bytes_down": 20,
        "sites": {s: {"steps": 5, "seconds": 1.5, "metrics": {"loss": loss}} for s in sites},
        **facts,
    }


EVENTS = [
    {"event": "run_started", "time": "2026-01-02T03:04:05+00:00", "study": "süß", "digest": "ab"},
    finished("codec", 1, 0.9),
    finished("codec", 2, 0.8),
    {"event": "stage_finished", "stage": "codec"},
    finished("diffusion", 1, 1.2, sites=("b",)),
    {"event": "run_finished"},
]


def written(tmp_path, events):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events), encoding="utf-8")
    return path


def test_events_come_back_as_they_were_written(tmp_path):
    assert read_events(written(tmp_path, EVENTS)) == EVENTS


def test_a_log_cut_at_any_byte_gives_the_events_before(tmp_path):
    path = written(tmp_path, EVENTS)
    content = path.read_bytes()
    ends = [len(line) for line in content.splitlines(keepends=True)]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        # A line that lacks only its newline is complete.
        complete = sum(sum(ends[: i + 1]) - 1 <= length for i in range(len(ends)))
        assert read_events(path) == EVENTS[:complete]


def test_a_damaged_line_in_the_middle_costs_only_itself(tmp_path):
    path = written(tmp_path, EVENTS)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], lines[2][:30], b"[1, 2]", b"", b"\xff\xfe", *lines[3:]]))
    assert read_events(path) == EVENTS[:2] + EVENTS[3:]


def test_a_run_that_has_not_begun_has_no_events(tmp_path):
    assert read_events(tmp_path / "events.jsonl") == []
    assert RunHistory.from_events([]) == RunHistory()


def test_a_log_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "events.jsonl"
    path.mkdir()
    with pytest.raises(RunError, match=r"events\.jsonl cannot be read"):
        read_events(path)


def test_rounds_become_rows_and_curves():
    history = RunHistory.from_events(EVENTS)
    assert history.stages == ("codec", "diffusion")
    assert history.sites == ("a", "b")
    assert history.finished
    assert history.started == "2026-01-02T03:04:05+00:00"
    assert [(r.stage, r.round_index, r.bytes_up, r.bytes_down) for r in history.rounds] == [
        ("codec", 1, 10, 20),
        ("codec", 2, 10, 20),
        ("diffusion", 1, 10, 20),
    ]
    points = {(c.stage, c.metric, c.site): c.points for c in history.curves}
    assert points == {
        ("codec", "loss", "a"): ((1, 0.9), (2, 0.8)),
        ("codec", "loss", "b"): ((1, 0.9), (2, 0.8)),
        ("diffusion", "loss", "b"): ((1, 1.2),),
    }


def test_a_round_done_again_after_a_resume_counts_once():
    events = [finished("codec", 1, 0.9), finished("codec", 2, 0.8), finished("codec", 2, 0.7)]
    history = RunHistory.from_events(events)
    assert len(history.rounds) == 2
    assert history.curves[0].points == ((1, 0.9), (2, 0.7))


def test_a_resumed_run_began_when_it_first_started():
    events = [{"event": "run_started", "time": "1"}, {"event": "run_started", "time": "2"}]
    assert RunHistory.from_events(events).started == "1"


def test_unknown_events_and_private_runs_without_metrics_are_fine():
    silent = finished("codec", 1)
    silent["sites"] = {"a": {"steps": 5, "seconds": 1.0}}
    history = RunHistory.from_events([{"event": "solar_eclipse"}, silent])
    assert history.curves == ()
    assert history.rounds[0].sites == {"a": 1.0}


def test_what_went_wrong_is_told():
    events = [
        {"event": "site_missing", "site": "b", "attempt": 2},
        {"event": "site_failed", "site": "a", "code": "E_DISK", "attempt": 1},
        {"event": "report_rejected", "site": "a", "reason": "not finite", "attempt": 1},
        {"event": "run_resumed", "stage": "codec", "round": 3},
    ]
    assert RunHistory.from_events(events).incidents == (
        "Site b sent no report in time (attempt 2).",
        "Site a could not do its order: E_DISK (attempt 1).",
        "Site a sent a report that was refused: not finite (attempt 1).",
        "The run was resumed after codec round 3.",
    )


def test_of_whose_changes_less_counted_is_told():
    rounds = [finished("codec", index) for index in (1, 2)]
    for event, share in zip(rounds, (0.2, 0.4), strict=True):
        event["sites"]["a"]["share"] = share
    (told,) = RunHistory.from_events(rounds).incidents
    assert told == "Of what site a changed, 30% counted (mean of 2 rounds)."


@pytest.mark.parametrize("missing", ["stage", "round", "seconds", "bytes_up", "bytes_down", "sites"])
def test_an_incomplete_round_is_named(missing):
    event = finished("codec", 7)
    del event[missing]
    with pytest.raises(RunError, match="incomplete"):
        RunHistory.from_events([event])


@pytest.mark.parametrize("sites", [["a"], {"a": {}}, {"a": {"seconds": 1, "metrics": {"loss": "low"}}}])
def test_sites_of_the_wrong_kind_are_named(sites):
    with pytest.raises(RunError, match="codec round 1 is incomplete"):
        RunHistory.from_events([finished("codec", 1) | {"sites": sites}])
