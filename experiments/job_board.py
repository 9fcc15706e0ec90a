"""A matrix of jobs: each done once, its figures in a file of its own, by several processes of one thread.

A job whose file exists is done: what was stopped goes on where it stood.
"""

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from common.artifact import write_text_atomic

Figures = dict[str, Any]


class Named(Protocol):
    """A job."""

    @property
    def name(self) -> str:
        """Name of its file."""
        ...


SomeJob = TypeVar("SomeJob", bound=Named)


@dataclass(frozen=True)
class JobBoard:
    """Where jobs are done.

    Attributes:
        folder: Of the figures' files.
        workers: Processes of one thread; with one, the jobs are done in this process, to the same bits.
        say: Told what is done.
    """

    folder: Path
    workers: int
    say: Callable[[str], None]

    def run(self, jobs: Sequence[SomeJob], work: Callable[[SomeJob], Figures]) -> list[Figures]:
        """Return the figures of all jobs, in their order, after doing those that are not done.

        Args:
            jobs: Each with a name of its own.
            work: Does one; it and what it returns can be pickled, and written as JSON.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = [job for job in jobs if not self._file(job).is_file()]
        finished = len(jobs) - len(waiting)
        for job, figures in self._figures(waiting, work):
            write_text_atomic(self._file(job), json.dumps(figures, indent=1, sort_keys=True) + "\n")
            finished += 1
            self.say(f"{finished} of {len(jobs)}: {job.name}")
        return [self._read(job) for job in jobs]

    def _figures(
        self, jobs: Sequence[SomeJob], work: Callable[[SomeJob], Figures]
    ) -> Iterable[tuple[SomeJob, Figures]]:
        if self.workers == 1:
            threads = torch.get_num_threads()
            _one_thread()
            try:
                for job in jobs:
                    yield job, work(job)
            finally:
                torch.set_num_threads(threads)
            return
        context = multiprocessing.get_context("spawn")  # a fork would share torch's thread pool
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_one_thread) as pool:
            futures = {pool.submit(work, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:  # after an error, or when nobody reads on: what has not begun would be done for nothing
                pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, job: Named) -> Figures:
        figures: Figures = json.loads(self._file(job).read_text(encoding="utf-8"))
        return figures

    def _file(self, job: Named) -> Path:
        return self.folder / f"{job.name}.json"


def _one_thread() -> None:
    torch.set_num_threads(1)
    quiet_flower()


def quiet_flower() -> None:
    """Keep Flower's aggregation from saying a line for every one of thousands of rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
