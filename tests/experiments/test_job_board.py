"""A matrix of jobs: each once, in this process or in others, and what happens when one of them fails."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from experiments.job_board import JobBoard


@dataclass(frozen=True)
class Job:
    """A job that leaves a file."""

    name: str
    folder: Path


def touch(job):
    """Leave a file; the first job fails."""
    time.sleep(0.05)
    (job.folder / f"did-{job.name}").touch()
    if job.name == "0":
        raise RuntimeError("the first job failed")
    return {"job": job.name, "threads": torch.get_num_threads()}


def jobs(folder, names):
    return [Job(str(name), folder) for name in names]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_with_one_thread_and_in_order(workers, tmp_path):
    threads, said = torch.get_num_threads(), []
    board = JobBoard(tmp_path / "board", workers, said.append)
    found = board.run(jobs(tmp_path, [3, 1, 2]), touch)
    assert found == [{"job": name, "threads": 1} for name in "312"]
    assert torch.get_num_threads() == threads
    assert len(said) == 3
    (tmp_path / "did-1").unlink()
    assert board.run(jobs(tmp_path, [3, 1, 2]), touch) == found
    assert not (tmp_path / "did-1").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_failure_what_waits_is_not_done_for_nothing(workers, tmp_path):
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="the first job failed"):
        JobBoard(tmp_path / "board", workers, lambda _: None).run(jobs(tmp_path, range(40)), touch)
    assert len(list(tmp_path.glob("did-*"))) < 20
    assert torch.get_num_threads() == threads
