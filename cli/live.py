"""The live view of a run: stage, round, site, step, loss and time left, read from the run's files.

The view only reads what server and sites write anyway, so it works across processes and can be
left out without changing anything.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cli.console import err
from common.artifact import read_snapshot
from common.federation.stage import Stage
from common.study import Study
from experiments.overview import seconds_left
from experiments.report.words import bytes_in_words, duration, plural
from server.events import read_events
from server.round_board import in_words
from server.run_folder import RunFolder

REFRESH_S = 0.5


@contextlib.contextmanager
def live_view(run: RunFolder, study: Study, enabled: bool) -> Iterator[None]:
    """Show the run's progress on standard error while the block runs."""
    if not enabled:
        yield
        return
    stop = threading.Event()
    view = _View(run, study)
    with _shown(view) as live:

        def refresh() -> None:
            while not stop.wait(REFRESH_S):
                live.update(view.render())

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            live.update(view.render())


def watch(run: RunFolder, study: Study) -> None:
    """Show a run's progress on standard error until it is finished, whoever drives it."""
    view = _View(run, study)
    with _shown(view) as live:
        while not view.is_finished:
            time.sleep(REFRESH_S)
            live.update(view.render())


@contextlib.contextmanager
def _shown(view: "_View") -> Iterator[Live]:
    """Show a view while the block runs, and leave its last state behind as whole lines."""
    with Live(view.render(), console=err, refresh_per_second=4, transient=False) as live:
        yield live
    if not err.is_terminal:  # there, Rich ends the last line itself
        err.line()


class _View:
    """Keeps the progress bars between refreshes, so that the time left is estimated over the run."""

    def __init__(self, run: RunFolder, study: Study) -> None:
        self.run, self.study = run, study
        self.is_finished = False
        self.bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=err,
        )
        self.tasks = {
            Stage.CODEC.value: self.bars.add_task(
                "codec", total=study.codec.training.total_steps, start=False
            ),
            Stage.DIFFUSION.value: self.bars.add_task(
                "diffusion", total=study.diffusion.training.total_steps, start=False
            ),
        }

    def render(self) -> Group:
        events = read_events(self.run.events)
        self.is_finished = any(event["event"] == "run_finished" for event in events)
        rounds_done = [event for event in events if event["event"] == "round_finished"]
        finished = {str(event["stage"]): int(event["round"]) for event in rounds_done}
        sites = [site for site in map(read_snapshot, self.run.sites.glob("*/progress.json")) if site]
        for stage, task in self.tasks.items():
            training = self.study.codec.training if stage == "codec" else self.study.diffusion.training
            rounds = finished.get(stage, 0)
            in_round = [s["step"] for s in sites if s["stage"] == stage and s["round"] == rounds + 1]
            # The round is as far as the average of all sites: some may not have begun.
            partial = sum(in_round) / len(self.study.federation.sites)
            steps = rounds * training.local_steps + partial
            if steps and not self.bars.tasks[task].started:
                self.bars.start_task(task)
            self.bars.update(task, completed=int(steps))
        return Group(self.bars, self._site_table(), self._totals(rounds_done))

    def _totals(self, events: Sequence[Mapping[str, Any]]) -> Text:
        """Return bytes and how much time is left, in a line."""
        traffic = sum(event["bytes_up"] + event["bytes_down"] for event in events)
        left = seconds_left(self.study, events)
        words = [f"{plural(len(events), 'round')} finished", f"{bytes_in_words(traffic)} sent and received"]
        words += [f"about {duration(left)} left"] if left else []
        return Text("; ".join(words), style="dim")

    def _site_table(self) -> Table:
        table = Table(box=None, header_style="dim", padding=(0, 2))
        for column in ("site", "stage", "round", "step", "loss", "state"):
            table.add_column(column, justify="left" if column in {"site", "stage", "state"} else "right")
        for path in sorted(self.run.sites.glob("*/progress.json")):
            progress = read_snapshot(path)
            if not progress:
                continue
            done = progress["step"] >= progress["num_steps"]
            age = time.time() - progress["time"]
            state = "waits" if done else "trains" if age < 60 else f"silent for {age:.0f} s"
            table.add_row(
                path.parent.name,
                progress["stage"],
                str(progress["round"]),
                f"{progress['step']}/{progress['num_steps']}",
                "private" if progress["loss"] is None else f"{progress['loss']:.4f}",
                state,
            )
        if table.row_count == 0:  # sites on machines of their own: what they told the server
            board = read_snapshot(self.run.board)
            for site, words in in_words(board, time.time()).items():
                table.add_row(site, board["stage"], str(board["round"]), "", "", words)
        return table
