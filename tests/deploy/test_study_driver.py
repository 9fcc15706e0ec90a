"""How long the driver of a study is waited for, and how often it is started again."""

import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from small_federation import small_study

from common.errors import ArtifactError, RunError
from deploy import study_driver
from deploy.disk_need import least_room
from deploy.study_driver import MOST_RESTARTS, _run_to_its_end, drive
from server.events import read_events
from server.run_folder import RunFolder


class Flower:
    """Says one state after another; the last one for ever."""

    def __init__(self, *states):
        self.states = list(states)
        self.submitted = 0
        self.stopped = []

    def admit_sites(self):
        pass

    def submit(self, folder):
        self.submitted += 1
        return "7"

    def stop(self, identifier):
        self.stopped.append(identifier)

    def status(self, identifier):
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(study_driver, "POLL_S", 0.01)
    monkeypatch.setattr(study_driver, "START_S", 0.2)
    monkeypatch.setattr(study_driver, "GONE_S", 0.2)
    monkeypatch.setattr(study_driver, "SERVER_UP_S", 0.2)


def test_it_is_waited_for_while_it_runs(tmp_path):
    flower = Flower("pending", "starting", *["running"] * 40, "finished:completed")
    assert _run_to_its_end(flower, RunFolder(tmp_path)) == "finished:completed"


@pytest.fixture
def driven(tmp_path):
    """A run that is driven for half a second."""
    run = RunFolder(tmp_path)

    def drive_for_a_while():
        with run.driven_by_one():
            time.sleep(0.5)

    driver = threading.Thread(target=drive_for_a_while)
    driver.start()
    while not run.is_driven:
        time.sleep(0.01)
    yield run
    driver.join()


def test_flower_is_asked_rarely_while_a_driver_is_at_work_and_soon_after_it_has_ended(driven):
    """Each question is a process of a second; a study may take days."""
    flower, asked = Flower("running"), []

    def status(identifier):
        asked.append(driven.is_driven)
        return "running" if driven.is_driven else "finished:completed"

    flower.status = status
    assert _run_to_its_end(flower, driven) == "finished:completed"
    assert asked == [True, False]
    assert not flower.stopped


def test_a_driver_that_dies_is_noticed_before_flower_notices(driven):
    flower = Flower("running")
    assert "driver died" in _run_to_its_end(flower, driven)
    assert flower.stopped == ["7"]


def test_a_server_that_answers_slowly_has_no_dead_driver(driven, monkeypatch):
    """While it moved 200 MB it answered after `GONE_S` and more: a driver at work was stopped for that."""
    monkeypatch.setattr(study_driver, "DRIVEN_S", 0.02)
    monkeypatch.setattr(study_driver, "GONE_S", 0.1)
    flower, answers = Flower("running"), []

    def status(identifier):
        time.sleep(study_driver.GONE_S + 0.05)
        answers.append("running" if driven.is_driven else "finished:completed")
        return answers[-1]

    flower.status = status
    assert _run_to_its_end(flower, driven) == "finished:completed"
    assert answers.count("running") > 1
    assert not flower.stopped


def test_one_question_without_an_answer_does_not_make_a_server_gone(tmp_path):
    flower, answers = Flower(), ["running", "unknown", "running", "finished:completed"]

    def status(identifier):
        if answers[0] == "unknown":
            time.sleep(study_driver.SERVER_UP_S + 0.05)  # as long as an answer is waited for
        return answers.pop(0)

    flower.status = status
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


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """A run whose driver dies as soon as it was started, and the Flower that says so."""
    flower = Flower("finished:failed")
    monkeypatch.setattr(study_driver, "FlowerCommand", lambda coordinator, port: flower)
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run"), flower


def test_a_driver_that_dies_is_started_again_three_times_and_it_is_said(dying):
    run, flower = dying
    said = []
    with pytest.raises(RunError, match="did not finish: finished:failed"):
        drive(SimpleNamespace(study=small_study(), folder=run.path), run, 8000, said.append)
    assert flower.submitted == 1 + MOST_RESTARTS == 4
    assert [line for line in said if "3 of 3" in line]
    restarts = [e["attempt"] for e in read_events(run.events) if e["event"] == "driver_restarted"]
    assert restarts == [1, 2, 3]


@pytest.mark.parametrize("full", ["coordinator", "run"])
def test_a_driver_that_dies_of_a_full_disk_is_not_started_again_and_the_disk_is_named(
    dying, monkeypatch, tmp_path, full
):
    run, flower = dying
    coordinator = SimpleNamespace(study=small_study(), folder=tmp_path / "coordinator")
    coordinator.folder.mkdir()
    place = {"coordinator": coordinator.folder, "run": run.path}[full]
    monkeypatch.setattr(shutil, "disk_usage", lambda f: SimpleNamespace(free=10 if f == place else 1 << 40))
    with pytest.raises(ArtifactError, match=f"0.00 GB are free in {place}, and study small may fill"):
        drive(coordinator, run, 8000, print)
    assert flower.submitted == 1


def test_a_study_goes_on_on_a_disk_that_it_has_filled_as_was_foreseen(dying, monkeypatch, tmp_path):
    """What it has put there already need not be free once more."""
    run, flower = dying
    study = small_study()
    room = 2 * least_room(study)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room))
    with pytest.raises(RunError):
        drive(SimpleNamespace(study=study, folder=tmp_path), run, 8000, print)
    assert flower.submitted == 1 + MOST_RESTARTS
