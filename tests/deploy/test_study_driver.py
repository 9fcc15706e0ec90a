"""How long the driver of a study is waited for."""

import pytest

from common.errors import RunError
from deploy import study_driver
from deploy.study_driver import _run_to_its_end
from server.run_folder import RunFolder


class Flower:
    """Says one state after another; the last one for ever."""

    def __init__(self, *states):
        self.states = list(states)
        self.submitted = 0

    def submit(self, folder):
        self.submitted += 1
        return "7"

    def status(self, identifier):
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(study_driver, "POLL_S", 0.01)
    monkeypatch.setattr(study_driver, "START_S", 0.2)
    monkeypatch.setattr(study_driver, "SERVER_UP_S", 0.2)


def test_it_is_waited_for_while_it_runs(tmp_path):
    flower = Flower("pending", "starting", *["running"] * 40, "finished:completed")
    assert _run_to_its_end(flower, RunFolder(tmp_path)) == "finished:completed"


def test_a_run_that_nobody_starts_is_an_error_that_names_who_should(tmp_path):
    with pytest.raises(RunError, match="nobody starts its driver"):
        _run_to_its_end(Flower("pending"), RunFolder(tmp_path))


def test_a_server_that_has_gone_ends_the_wait(tmp_path):
    assert _run_to_its_end(Flower("running", "unknown"), RunFolder(tmp_path)) == "unknown"


def test_a_run_that_is_on_is_joined_and_not_begun_again(tmp_path):
    flower = Flower("running", "finished:completed")
    _run_to_its_end(flower, RunFolder(tmp_path))
    again = Flower("running", "finished:completed")
    _run_to_its_end(again, RunFolder(tmp_path))
    assert (flower.submitted, again.submitted) == (1, 0)
