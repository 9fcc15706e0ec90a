"""A study that went on without a site says so."""

from server.participation import Participation
from tests.small_federation import small_study

STUDY = small_study(("a", "b", "c"))


def finished(stage, round_index, *sites):
    return {
        "event": "round_finished",
        "stage": stage,
        "round": round_index,
        "sites": {site: {} for site in sites},
    }


def test_a_complete_run_has_lost_nobody():
    events = [{"event": "run_started"}, finished("codec", 1, "a", "b", "c"), finished("diffusion", 1, *"abc")]
    found = Participation.from_events(STUDY, events)
    assert found.lost == []
    assert found.rounds == {"codec": 1, "diffusion": 1}


def test_rounds_without_a_site_are_counted_and_those_done_again_count_once():
    events = [
        finished("codec", 1, "a", "b"),
        finished("codec", 2, "a", "b", "c"),
        finished("codec", 2, "a", "c"),  # done again after a crash
    ]
    found = Participation.from_events(STUDY, events)
    assert found.facts() == {
        "rounds": {"codec": 2},
        "by_site": {"codec": {"a": 2, "b": 1, "c": 1}},
        "incomplete": ["b", "c"],
    }


def test_a_site_that_never_took_part_is_named():
    assert Participation.from_events(STUDY, [finished("codec", 1, "a", "b")]).lost == ["c"]


def test_a_site_of_whose_report_nothing_counted_took_no_part():
    event = finished("codec", 1, "a", "b", "c")
    event["sites"] = {"a": {"share": 0.0}, "b": {"share": 1.0}, "c": {"share": 0.2}}
    assert Participation.from_events(STUDY, [event]).lost == ["a"]
