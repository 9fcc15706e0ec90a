"""Whose run a folder holds, and what a start that was killed in the middle leaves."""

import json
import threading

import pytest
from small_federation import small_study

from common.errors import RunError
from server import run_folder
from server.run_folder import RUN_FILE, RunFolder

SOURCE = {"sites": {"a": "1"}}


def make(path, **changes):
    return RunFolder.create_or_resume(path, small_study(**changes), SOURCE)


def test_the_same_study_data_and_code_resume(tmp_path):
    created = make(tmp_path / "run").record()
    assert make(tmp_path / "run").record() == created


def test_other_code_does_not_go_on_with_a_run(tmp_path, monkeypatch):
    make(tmp_path / "run")
    monkeypatch.setattr(run_folder, "code_digest", lambda: "another version")
    with pytest.raises(RunError, match="another version of fedvox"):
        make(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").study() == small_study()  # it can still be looked at


def test_a_start_that_was_killed_before_its_record_starts_again(tmp_path):
    folder = make(tmp_path / "run")
    (folder.path / RUN_FILE).unlink()
    (folder.path / ".run.json.partial-1").write_text("{")
    assert json.loads((make(folder.path).path / RUN_FILE).read_text())["source"]["sites"] == {"a": "1"}


def test_a_study_file_that_a_person_keeps_there_is_not_overwritten(tmp_path):
    (tmp_path / "study.yaml").write_text("name: mine\n")
    with pytest.raises(RunError, match="not a run folder"):
        make(tmp_path)
    assert (tmp_path / "study.yaml").read_text() == "name: mine\n"


def test_another_study_or_other_data_is_refused(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(RunError, match="another study"):
        make(tmp_path / "run", seed=99)
    with pytest.raises(RunError, match="other data"):
        RunFolder.create_or_resume(tmp_path / "run", small_study(), {"sites": {"a": "2"}})


def test_a_run_has_one_driver_at_a_time(tmp_path):
    run = RunFolder.create_or_resume(tmp_path / "run", small_study(), {})
    with (
        run.driven_by_one(),
        pytest.raises(RunError, match="driven by another process"),
        run.driven_by_one(),
    ):
        pass
    with run.driven_by_one():
        pass


def test_whether_a_run_is_driven_can_be_asked_and_keeps_no_driver_off(tmp_path):
    run = RunFolder.create_or_resume(tmp_path / "run", small_study(), {})
    assert not run.is_driven
    with run.driven_by_one():
        assert run.is_driven
        assert run.is_driven  # having asked locks nothing
    over = threading.Event()
    asking = threading.Thread(target=lambda: [run.is_driven for _ in iter(over.is_set, True)])
    asking.start()
    try:
        for _ in range(200):
            with run.driven_by_one():
                assert run.is_driven
    finally:
        over.set()
        asking.join()
    assert not run.is_driven
