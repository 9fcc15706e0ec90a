"""A ledger that is altered, cut, rolled back, killed or full: nothing is forgotten, nothing goes unseen."""

import contextlib
import multiprocessing
import os
import random
import signal
import statistics
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.private import ledger_files
from client.private.ledger import Ledger
from common.errors import ArtifactError, LedgerError
from common.privacy.ledger_format import (
    spent_events,
)
from tests.ledger_entries import LAX, MOST_ROUNDS, order, reserve


@pytest.fixture(scope="module")
def three_lines(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("three")
    ledger = Ledger.create(folder)
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    return (folder / "ledger.jsonl").read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_of_a_ledger_can_be_changed_unseen(data, three_lines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    path = folder / "ledger.jsonl"
    (folder / "replies").mkdir()
    (folder / "heads.jsonl").touch()
    path.write_bytes(three_lines)
    spent = spent_events(Ledger(folder).entries())
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 2))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(LedgerError):  # refused, unless the change means the same
        assert spent_events(Ledger(folder).entries()) == spent


@pytest.mark.parametrize("kept", [[0, 2], [1, 2], [0, 1, 1, 2], [1, 0, 2]])
def test_a_line_taken_out_twice_or_moved_is_seen(tmp_path, kept):
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[i] for i in kept))
    with pytest.raises(LedgerError, match="does not follow"):
        Ledger(tmp_path / "ledger")


def test_a_line_without_its_end_was_never_relied_on_and_is_cut_off(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    whole = (tmp_path / "ledger" / "ledger.jsonl").read_bytes()
    with (tmp_path / "ledger" / "ledger.jsonl").open("ab") as file:
        file.write(whole[: len(whole) // 2])
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)  # the same process, without a restart
    assert len(Ledger(tmp_path / "ledger").entries()) == 2


def test_a_full_disk_reserves_nothing_and_leaves_the_chain_whole(tmp_path, monkeypatch):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    real = os.fsync

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    monkeypatch.setattr(os, "fsync", real)
    assert len(Ledger(tmp_path / "ledger").entries()) == 1


def loses_a_line(folder):
    path = folder / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def loses_all_lines_but_the_first(folder):
    path = folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def is_empty(folder):
    (folder / "ledger.jsonl").write_bytes(b"")


def is_missing(folder):
    (folder / "ledger.jsonl").unlink()


def both_records_are_missing(folder):
    is_missing(folder)
    (folder / "heads.jsonl").unlink()


def both_records_are_from_before(folder):
    is_empty(folder)
    (folder / "heads.jsonl").write_bytes(b"")


def heads_are_garbage(folder):
    with (folder / "heads.jsonl").open("ab") as file:
        file.write(b"garbage\n")


LOSSES = [
    loses_a_line,
    loses_all_lines_but_the_first,
    is_empty,
    is_missing,
    both_records_are_missing,
    both_records_are_from_before,
    heads_are_garbage,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_ledger_that_lost_something_refuses_to_start(tmp_path, lose):
    """Nobody has acknowledged anything: after the last round of a run, nobody does."""
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        ledger.commit(order(index), b"reply")
    assert Ledger(tmp_path / "ledger").verify() == 4
    lose(tmp_path / "ledger")
    with pytest.raises(LedgerError):
        Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("lose", LOSSES)
def test_a_ledger_that_loses_something_while_it_is_open_takes_no_reservation(tmp_path, lose):
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    ledger.entries()
    lose(tmp_path / "ledger")
    with pytest.raises(LedgerError):
        ledger.reserve(reserve(order(3)), LAX, MOST_ROUNDS)


def test_a_crash_after_a_line_and_before_its_head_loses_neither(tmp_path, monkeypatch):
    ledger = Ledger.create(tmp_path / "ledger")
    real = ledger_files.append_line

    def killed_between(path, text):
        if path.name == "heads.jsonl":
            raise KeyboardInterrupt
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_files, "append_line", killed_between)
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    again = Ledger(tmp_path / "ledger")
    again.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    assert len(Ledger(tmp_path / "ledger").entries()) == 2


def test_a_last_line_that_only_lacks_its_end_still_counts(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    assert len(Ledger(tmp_path / "ledger").entries()) == 2


def test_a_half_written_head_does_not_stop_the_site(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    with (tmp_path / "ledger" / "heads.jsonl").open("ab") as file:
        file.write(b'{"head": "ab')
    assert len(Ledger(tmp_path / "ledger").entries()) == 1


def test_a_line_that_is_changed_while_the_site_runs_is_noticed(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"steps":2', '"steps":1', 1))
    with pytest.raises(LedgerError, match="line 1 of the ledger does not follow"):
        Ledger(tmp_path / "ledger")
    with pytest.raises(LedgerError, match="while it was in use"):
        ledger.entries()
    path.write_text(whole)
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize("killed_at", ["write_bytes_atomic", "flush_folder"])
def test_a_ledger_that_was_half_created_is_created_by_the_next_call(tmp_path, monkeypatch, killed_at):
    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    folder = tmp_path / "ledger"
    with monkeypatch.context() as patch:
        # Before the key is written; and at its last step, when it is in place but not yet flushed.
        where = "client.private.ledger_files" if killed_at == "write_bytes_atomic" else "common.artifact"
        patch.setattr(f"{where}.{killed_at}", kill)
        with pytest.raises(Killed):
            Ledger.create(folder)
    with pytest.raises(LedgerError, match="holds no privacy ledger"):
        Ledger(folder)
    assert Ledger.create(folder).spent(1e-5) == 0


def test_everything_is_on_the_disk_in_order_before_anything_rests_on_it(tmp_path, monkeypatch):
    """Kills cannot see this: the page cache survives them. So the flushes themselves are recorded."""
    ledger = Ledger.create(tmp_path / "ledger")
    flushed, real = [], os.fsync

    def recording(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    assert flushed == ["ledger.jsonl", "ledger", "heads.jsonl", "ledger"]
    flushed.clear()
    ledger.commit(order(), b"reply")
    assert [name.split(".partial")[0] for name in flushed] == [
        f".{order().digest}",
        "replies",
        "ledger.jsonl",
        "heads.jsonl",
    ]


def _work(folder: Path, sent: Path, seed: int, opened: Event) -> None:
    """A site that answers orders until it is killed; what leaves is written to ``sent`` at once."""
    ledger, source = Ledger(folder), random.Random(seed)
    opened.set()
    while True:
        key = order(source.randrange(1, 40))
        if ledger.stored_reply(key) is None:
            ledger.reserve(reserve(key, steps=1), LAX, MOST_ROUNDS)
            ledger.commit(key, f"{os.getpid()}-{key.round_index}".encode())
        reply = ledger.stored_reply(key) or b""
        with sent.open("ab") as file:
            file.write(reply + b"\n")


def _seconds_for_an_order(folder: Path) -> float:
    """How long this machine takes to pay for an order and to keep its reply (s), the median of five."""
    ledger, seconds = Ledger.create(folder), []
    for index in range(1, 6):
        start = time.monotonic()
        ledger.reserve(reserve(order(index), steps=1), LAX, MOST_ROUNDS)
        ledger.commit(order(index), b"reply")
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def test_a_kill_at_any_moment_never_lowers_the_ledger_below_what_left(tmp_path, monkeypatch):
    """Fifty processes, each killed at a random moment; the recount takes only the replies that left.

    The moments are told in orders, not in seconds: on a slow machine too, some replies leave.
    """
    # Steps instead of epsilon: the budget is not what is tested, and accounting would hide the crashes.
    monkeypatch.setattr("client.private.budget.epsilon", lambda events, _: sum(e.steps for e in events))
    context, source = multiprocessing.get_context("fork"), random.Random(3)
    folder, sent = tmp_path / "ledger", tmp_path / "sent"
    Ledger.create(folder)
    an_order, spent = _seconds_for_an_order(tmp_path / "timed"), 0
    for run in range(50):
        opened = context.Event()
        worker = context.Process(target=_work, args=(folder, sent, run, opened))
        worker.start()
        if run % 5:  # each fifth may die while it opens the ledger
            assert opened.wait(60)
        time.sleep(source.uniform(0.0, 3 * an_order))
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        events = spent_events(Ledger(folder).entries())
        steps = sum(event.steps for event in events)
        left = sent.read_bytes().split(b"\n")[:-1] if sent.exists() else []
        assert steps >= len(set(left))  # every different reply was made by one paid step
        assert steps >= spent
        spent = steps
    assert spent > 10
    assert len(set(left)) > 5
