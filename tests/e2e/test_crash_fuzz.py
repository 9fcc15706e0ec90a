"""A private study killed with SIGKILL anywhere: the ledgers never know of less than what left the sites.

Every start is a process of its own that runs the whole study, server and sites. What leaves a site is
written to a file of the test's the moment it leaves; the recount reads that file and the ledgers' raw
lines, and none of the code under test.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from common.federation.messages import TrainReport
from server.state import start_from_public
from server.transport import Exchange
from tests.small_federation import PRIVATE, Federation, private_study, public_state, write_volumes

ROUNDS, STEPS = 3, 2
SITES = ("a", "b")
FORK = multiprocessing.get_context("fork")


class Recorded:
    """Passes orders on and writes down every reply as it leaves its site."""

    def __init__(self, federation, sent: Path) -> None:
        self.federation, self.sent = federation, sent

    def exchange(self, orders, deadline_s):
        reports = []
        for order in orders:
            report = self.federation.sites[order.site].execute(order)
            if isinstance(report, TrainReport):
                digest = hashlib.sha256()
                for name in sorted(report.parameters):
                    digest.update(report.parameters[name].numpy().tobytes())
                with self.sent.open("a") as file:
                    file.write(f"{order.site} {report.steps} {digest.hexdigest()}\n")
            reports.append(report)
        return Exchange(reports, 0, 0)


def _start(folder, study, data, public) -> None:
    federation = Federation(folder, study, data)
    if federation.store.load_newest() is None:
        federation.store.save(start_from_public(public, study))
    federation.run(Recorded(federation, folder / "sent"))


def started(folder, study, data, public):
    process = FORK.Process(target=_start, args=(folder, study, data, public))
    process.start()
    return process


def reserved_steps(folder: Path, site: str) -> int:
    """Steps that the ledger's whole lines reserve."""
    path = folder / "sites" / site / "ledger" / "ledger.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line)["entry"] for line in lines if line.endswith("}") and _is_whole(line)]
    return sum(entry["event"]["steps"] for entry in entries if entry["kind"] == "RESERVE")


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def steps_that_left(folder: Path, site: str) -> int:
    """Steps behind the different replies that left: each of them was made with noise of its own."""
    sent = folder / "sent"
    lines = set(sent.read_text().splitlines()) if sent.exists() else set()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == site)


def check(folder: Path) -> None:
    for site in SITES:
        assert reserved_steps(folder, site) >= steps_that_left(folder, site)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    public = public_state()
    data = {name: write_volumes(folder / name, 3, seed) for seed, name in enumerate(SITES, start=1)}
    training = {"rounds": ROUNDS, "local_steps": STEPS, "batch_size": 2}
    return private_study(public, SITES, diffusion__training=training), data, public


@pytest.mark.parametrize("num_runs", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_runs_killed_once_each_at_a_random_moment(tmp_path, world, num_runs):
    source = random.Random(11)
    whole = started(tmp_path / "whole", *world)
    begun = time.monotonic()
    whole.join()
    assert whole.exitcode == 0
    duration = time.monotonic() - begun
    lost = killed = 0
    for index in range(num_runs):
        folder = tmp_path / str(index)
        process = started(folder, *world)
        time.sleep(source.uniform(0.02, duration))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        else:
            duration *= 0.6  # the machine was busier when it was measured
        process.join()
        check(folder)
        again = started(folder, *world)
        again.join()
        assert again.exitcode == 0
        check(folder)
        for site in SITES:
            assert steps_that_left(folder, site) == ROUNDS * STEPS  # no round left with two noises
            assert reserved_steps(folder, site) <= (ROUNDS + 1) * STEPS
            lost += reserved_steps(folder, site) - ROUNDS * STEPS
    assert killed > num_runs / 2
    assert lost > 0 or num_runs < 50  # some kills hit between RESERVE and COMMIT


def a_round_is_done(folder):
    path = folder / "events.jsonl"
    return path.is_file() and "round_finished" in path.read_text()


def test_a_run_that_is_killed_until_the_spare_rounds_are_gone_stops_cleanly(tmp_path, world):
    """After its first round: a run that never made one has nothing to stop with."""
    folder = tmp_path / "run"
    most = (ROUNDS + PRIVATE["spare_rounds"]) * STEPS
    for _ in range(200):
        process = started(folder, *world)
        before = reserved_steps(folder, "a")
        while process.is_alive() and reserved_steps(folder, "a") == before:
            time.sleep(0.0005)
            if not a_round_is_done(folder):
                before = reserved_steps(folder, "a")
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        check(folder)
        assert reserved_steps(folder, "a") <= most
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[-3:] == ["budget_spent", "stage_finished", "run_finished"]
    assert reserved_steps(folder, "a") == most
