"""The ledger never forgets a spend: closed form of its chain, faults, crashes, rollback, forks, budgets."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ledger_export import registry_entry
from client.private.budget import Budget
from client.private.ledger import Ledger
from common.errors import ArtifactError, BudgetError, LedgerError
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian
from common.privacy.ledger_format import (
    GENESIS,
    LedgerLine,
    OrderKey,
    Reserve,
    chain_head,
    next_line,
    spent_events,
)
from server.ledger_heads import LedgerHeads

LAX = Budget(epsilon=1000, delta=1e-5)
MOST_ROUNDS = 1000
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def order(round_index=1, run="run", parent="a") -> OrderKey:
    return OrderKey(run=run, stage="diffusion", round_index=round_index, parent=parent * 64)


def reserve(key=None, steps=2, noise=4.0, patients="d") -> Reserve:
    return Reserve(
        event=SampledGaussian(sampling_rate=0.1, noise_multiplier=noise, steps=steps),
        clip_norm=1.0,
        order=key or order(),
        study="b" * 64,
        code="c" * 64,
        patients=patients * 64,
        time=NOW,
    )


def test_the_chain_is_sha256_of_head_and_body():
    line = next_line(GENESIS, reserve())
    written = json.loads(line.to_json())
    canonical = json.dumps(written["entry"], sort_keys=True, separators=(",", ":"))
    body = hashlib.sha256(canonical.encode()).hexdigest()
    assert line.body == body
    assert line.head == written["head"] == hashlib.sha256((GENESIS + body).encode()).hexdigest()
    assert LedgerLine.model_validate_json(line.to_json()) == line


def test_everything_reserved_adds_up_whatever_study_patients_or_answer(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1), steps=2), LAX, MOST_ROUNDS)
    ledger.commit(order(1), b"reply")
    ledger.reserve(reserve(order(2, run="other"), steps=3, patients="e"), LAX, MOST_ROUNDS)
    ledger.reserve(reserve(order(3), steps=5, noise=6.0), LAX, MOST_ROUNDS)
    expected = [
        SampledGaussian(sampling_rate=0.1, noise_multiplier=4.0, steps=5),
        SampledGaussian(sampling_rate=0.1, noise_multiplier=6.0, steps=5),
    ]
    assert spent_events(ledger.entries()) == expected
    assert ledger.spent(1e-5) == Ledger(tmp_path / "ledger").spent(1e-5) == epsilon(expected, 1e-5)


def test_an_order_that_would_pass_the_cap_is_refused_and_writes_nothing(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    budget = Budget(epsilon=epsilon([reserve(steps=4).event], 1e-5) + 1e-9, delta=1e-5)
    ledger.reserve(reserve(order(1)), budget, MOST_ROUNDS)
    ledger.reserve(reserve(order(2)), budget, MOST_ROUNDS)
    before = (tmp_path / "ledger" / "ledger.jsonl").read_bytes()
    with pytest.raises(BudgetError, match="above the cap"):
        ledger.reserve(reserve(order(3)), budget, MOST_ROUNDS)
    assert (tmp_path / "ledger" / "ledger.jsonl").read_bytes() == before


def test_the_same_order_gets_the_stored_bytes_and_costs_nothing(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    assert ledger.stored_reply(order()) is None
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    assert ledger.stored_reply(order()) is None
    ledger.commit(order(), b"noised weights")
    spent = ledger.spent(1e-5)
    assert Ledger(tmp_path / "ledger").stored_reply(order()) == b"noised weights"
    assert ledger.spent(1e-5) == spent
    assert ledger.stored_reply(order(parent="b")) is None
    with pytest.raises(LedgerError, match="answered already"):
        ledger.commit(order(), b"another")


def test_a_round_computed_again_is_charged_again(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    once = ledger.spent(1e-5)
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    assert ledger.spent(1e-5) > once


def test_a_reply_that_was_not_paid_for_is_refused(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError, match="not paid for"):
        ledger.commit(order(2), b"reply")
    assert not list((tmp_path / "ledger" / "replies").iterdir())


def test_an_altered_reply_is_not_sent(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    ledger.commit(order(), b"reply")
    (tmp_path / "ledger" / "replies" / order().digest).write_bytes(b"REPLY")
    with pytest.raises(LedgerError, match="altered"):
        ledger.stored_reply(order())


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


def test_a_ledger_rolled_back_behind_an_acknowledged_head_refuses_to_start(tmp_path):
    ledger = Ledger.create(tmp_path / "now")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    old = (tmp_path / "now" / "ledger.jsonl").read_bytes()
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    ledger.acknowledge(ledger.head)
    Ledger(tmp_path / "now")
    (tmp_path / "now" / "ledger.jsonl").write_bytes(old)
    with pytest.raises(LedgerError, match="acknowledged"):
        Ledger(tmp_path / "now")


def test_a_head_that_is_not_the_ledgers_own_cannot_be_acknowledged(tmp_path):
    with pytest.raises(LedgerError, match="missing"):
        Ledger.create(tmp_path / "ledger").acknowledge("f" * 64)


def test_a_last_line_that_only_lacks_its_end_still_counts(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    assert len(Ledger(tmp_path / "ledger").entries()) == 2


def test_a_half_written_acknowledgement_does_not_stop_the_site(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    ledger.acknowledge(ledger.head)
    with (tmp_path / "ledger" / "heads.jsonl").open("ab") as file:
        file.write(b'{"head": "ab')
    assert len(Ledger(tmp_path / "ledger").entries()) == 1


def test_a_ledger_rolled_back_under_a_running_process_takes_no_reservation(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    old = path.read_bytes()
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    ledger.acknowledge(ledger.head)
    path.write_bytes(old)
    with pytest.raises(LedgerError, match="acknowledged"):
        ledger.reserve(reserve(order(3)), LAX, MOST_ROUNDS)


def test_a_line_that_is_changed_while_the_site_runs_is_noticed(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    path = tmp_path / "ledger" / "ledger.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"steps":2', '"steps":1', 1))
    with pytest.raises(LedgerError, match="line 1 of the ledger does not follow"):
        ledger.entries()
    path.write_text(whole)
    assert len(ledger.entries()) == 2


def test_a_missing_folder_is_no_fresh_budget_and_a_ledger_is_not_created_twice(tmp_path):
    with pytest.raises(LedgerError, match="holds no privacy ledger"):
        Ledger(tmp_path / "unmounted")
    Ledger.create(tmp_path / "ledger")
    with pytest.raises(LedgerError, match="not empty"):
        Ledger.create(tmp_path / "ledger")


def test_a_ledger_is_for_its_owners_eyes(tmp_path):
    folder = tmp_path / "ledger"
    folder.mkdir(mode=0o777)  # an empty mount point, say
    Ledger.create(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "replies").stat().st_mode & 0o777 == 0o700
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("killed_at", ["write_bytes_atomic", "flush_folder"])
def test_a_ledger_that_was_half_created_is_created_by_the_next_call(tmp_path, monkeypatch, killed_at):
    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    folder = tmp_path / "ledger"
    with monkeypatch.context() as patch:
        # Before the key is written; and at its last step, when it is in place but not yet flushed.
        where = "client.private.ledger" if killed_at == "write_bytes_atomic" else "common.artifact"
        patch.setattr(f"{where}.{killed_at}", kill)
        with pytest.raises(Killed):
            Ledger.create(folder)
    with pytest.raises(LedgerError, match="holds no privacy ledger"):
        Ledger(folder)
    assert Ledger.create(folder).spent(1e-5) == 0


def test_an_older_head_that_another_coordinator_sends_adds_nothing(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    seen = [GENESIS]
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        seen.append(ledger.head)
    for head in (*seen, *seen, seen[3], seen[1]):
        ledger.acknowledge(head)
    written = (ledger.folder / "heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["head"] for line in written] == seen[1:]


def test_what_is_exported_counts_everything_and_says_nothing_of_when_or_who(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    for index in (1, 2):
        ledger.reserve(reserve(order(index), steps=3), LAX, MOST_ROUNDS)
    ledger.reserve(reserve(order(3), noise=6.0, patients="e"), LAX, MOST_ROUNDS)
    entry = registry_entry(ledger, LAX, "north")
    counted = [(event["noise_multiplier"], event["orders"], event["steps"]) for event in entry["events"]]
    assert counted == [(4.0, 2, 6), (6.0, 1, 2)]
    assert entry["parameters"]["epsilon"] == ledger.spent(1e-5)
    text = json.dumps(entry)
    assert not any(secret in text for secret in ("d" * 64, "e" * 64, "2026", '"run"'))


def test_an_order_whose_name_no_file_can_hold_is_refused():
    for run in ("\ud800", "../x", "", "a" * 200):
        with pytest.raises(ValueError, match="run"):
            order(run=run)


def test_everything_is_on_the_disk_in_order_before_anything_rests_on_it(tmp_path, monkeypatch):
    """Kills cannot see this: the page cache survives them. So the flushes themselves are recorded."""
    ledger = Ledger.create(tmp_path / "ledger")
    flushed, real = [], os.fsync

    def recording(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    assert flushed == ["ledger.jsonl", "ledger"]
    flushed.clear()
    ledger.commit(order(), b"reply")
    assert [name.split(".partial")[0] for name in flushed] == [
        f".{order().digest}",
        "replies",
        "ledger.jsonl",
    ]


def report(heads: LedgerHeads, ledger: Ledger) -> None:
    """What a site does with a private report: prove that the ledger continues what the server saw."""
    start = heads.last("site")
    heads.accept("site", ledger.proof_from(start))


def test_the_server_follows_a_ledger_and_a_lost_acknowledgement_is_no_error(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        start = heads.last("site")
        heads.accept("site", ledger.proof_from(start))
        heads.accept("site", ledger.proof_from(start))  # sent twice
    proof = ledger.proof_from(GENESIS)
    last = LedgerHeads(tmp_path / "heads.json").last("site")
    assert last == proof.head == chain_head(GENESIS, proof.bodies)


def test_a_site_restored_from_an_old_snapshot_is_refused_on_both_ends(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(heads, ledger)
    shutil.copytree(tmp_path / "site", tmp_path / "snapshot")
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    report(heads, ledger)
    restored = Ledger(tmp_path / "snapshot")
    restored.reserve(reserve(order(2), noise=50.0), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError, match="last head"):
        report(heads, restored)


def test_reports_that_come_late_or_in_another_order_are_no_fork(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    first = ledger.proof_from(GENESIS)
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    second = ledger.proof_from(GENESIS)
    heads.accept("site", second)
    heads.accept("site", first)
    assert heads.last("site") == second.head
    other = LedgerHeads(tmp_path / "other.json")
    other.accept("site", first)
    other.accept("site", second)
    assert other.last("site") == second.head


def test_a_person_can_decide_to_go_on_with_a_ledger_that_was_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    shutil.copytree(tmp_path / "site", tmp_path / "other")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(heads, ledger)
    other = Ledger(tmp_path / "other")
    other.reserve(reserve(order(1), noise=9.0), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError):
        heads.accept("site", other.proof_from(GENESIS))
    with pytest.raises(LedgerError, match="forked before"):
        report(heads, ledger)
    heads.start_again("site")
    again = LedgerHeads(tmp_path / "heads.json")
    report(again, ledger)
    with pytest.raises(LedgerError):
        again.accept("site", other.proof_from(GENESIS))


def test_a_report_without_a_line_of_its_own_is_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    report(heads, ledger)
    with pytest.raises(LedgerError, match="does not lead"):
        heads.accept("site", ledger.proof_from(heads.last("site")))


def test_two_successors_of_one_head_are_a_fork_and_both_are_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(heads, ledger)
    seen = heads.last("site")
    shutil.copytree(tmp_path / "site", tmp_path / "copy")
    copy = Ledger(tmp_path / "copy")
    ledger.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    copy.reserve(reserve(order(2, run="elsewhere")), LAX, MOST_ROUNDS)
    report(heads, ledger)
    with pytest.raises(LedgerError, match="forked"):
        heads.accept("site", copy.proof_from(seen))
    ledger.reserve(reserve(order(3)), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError, match="forked before"):
        report(LedgerHeads(tmp_path / "heads.json"), ledger)


def test_a_proof_that_leads_elsewhere_is_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError, match="does not lead"):
        heads.accept("site", dataclasses.replace(ledger.proof_from(GENESIS), head="f" * 64))


def _work(folder: Path, sent: Path, seed: int) -> None:
    """A site that answers orders until it is killed; what leaves is written to ``sent`` at once."""
    ledger, source = Ledger(folder), random.Random(seed)
    while True:
        key = order(source.randrange(1, 40))
        if ledger.stored_reply(key) is None:
            ledger.reserve(reserve(key, steps=1), LAX, MOST_ROUNDS)
            ledger.commit(key, f"{os.getpid()}-{key.round_index}".encode())
        reply = ledger.stored_reply(key) or b""
        with sent.open("ab") as file:
            file.write(reply + b"\n")


def test_a_kill_at_any_moment_never_lowers_the_ledger_below_what_left(tmp_path, monkeypatch):
    """Fifty processes, each killed at a random moment; the recount takes only the replies that left."""
    # Steps instead of epsilon: the budget is not what is tested, and accounting would hide the crashes.
    monkeypatch.setattr("client.private.budget.epsilon", lambda events, _: sum(e.steps for e in events))
    context, source = multiprocessing.get_context("fork"), random.Random(3)
    folder, sent = tmp_path / "ledger", tmp_path / "sent"
    Ledger.create(folder)
    spent = 0
    for run in range(50):
        worker = context.Process(target=_work, args=(folder, sent, run))
        worker.start()
        time.sleep(source.uniform(0.0, 0.06))
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


def test_the_answer_to_an_old_order_proves_its_own_reservation_again(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        report(heads, ledger)
    heads.accept("site", ledger.proof_from(heads.last("site"), order(1)))
    assert ledger.proof_from(heads.last("site"), order(1)).start == GENESIS
    assert heads.last("site") == ledger.head


def test_a_study_has_the_rounds_that_it_pays_for_whatever_its_runs_are_called(tmp_path):
    ledger = Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(order(1)), LAX, 2)
    ledger.reserve(reserve(order(1, run="renamed")), LAX, 2)
    with pytest.raises(BudgetError, match="has had its 2 rounds"):
        ledger.reserve(reserve(order(2)), LAX, 2)
    assert len(ledger.entries()) == 2


def test_the_fingerprint_of_a_patient_set_is_keyed_and_ignores_order(tmp_path):
    one, other = Ledger.create(tmp_path / "one"), Ledger.create(tmp_path / "other")
    assert one.fingerprint_of(["b", "a", "a"]) == one.fingerprint_of(["a", "b"])
    assert one.fingerprint_of(["a", "b"]) != one.fingerprint_of(["a", "b", "c"])
    assert one.fingerprint_of(["a", "b"]) != other.fingerprint_of(["a", "b"])
    (tmp_path / "one" / "key").unlink()
    with pytest.raises(LedgerError, match="key is missing"):
        one.fingerprint_of(["a"])
