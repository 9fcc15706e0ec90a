"""The server follows each ledger: late reports pass, rollbacks and forks do not."""

import dataclasses
import shutil

import pytest

from client.private.ledger import Ledger
from common.errors import LedgerError
from common.federation.messages import TrainOrder
from common.federation.stage import Stage
from common.privacy.ledger_format import (
    GENESIS,
    chain_head,
)
from server.ledger_heads import LedgerHeads
from tests.ledger_entries import LAX, MOST_ROUNDS, order, reserve


def asked(head: str, round_index=1) -> TrainOrder:
    """An order that names ``head``."""
    return TrainOrder("d" * 64, "site", Stage.DIFFUSION, round_index, {}, run="run", ledger_head=head)


def report(heads: LedgerHeads, ledger: Ledger, round_index=1) -> None:
    """What a site does with a private report: prove that the ledger continues what the server saw."""
    start = heads.last("site")
    heads.accept("site", ledger.proof_from(start), asked(start, round_index))


def test_the_server_follows_a_ledger_and_a_lost_acknowledgement_is_no_error(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        start = heads.last("site")
        heads.accept("site", ledger.proof_from(start), asked(start, index))
        heads.accept("site", ledger.proof_from(start), asked(start, index))  # sent twice
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


def test_a_reply_that_was_lost_is_proven_again_together_with_what_came_since(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2, 3):  # only the third reply arrives: the server still asks from the beginning
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
    heads.accept("site", ledger.proof_from(GENESIS, order(1)), asked(GENESIS))
    assert heads.last("site") == ledger.head


def test_a_round_that_was_not_paid_for_is_not_counted(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(heads, ledger, round_index=1)
    old = ledger.proof_from(GENESIS)
    with pytest.raises(LedgerError, match="not paid for"):
        heads.accept("site", old, asked(heads.last("site"), round_index=2))
    heads.accept("site", old, asked(heads.last("site"), round_index=1))  # the same reply, asked for again
    with pytest.raises(LedgerError, match="does not lead"):
        heads.accept("site", old, asked("f" * 64, round_index=1))


def test_a_person_s_decision_counts_while_a_run_goes_on(tmp_path):
    running = LedgerHeads(tmp_path / "heads.json")
    ledger, other = Ledger.create(tmp_path / "site"), Ledger.create(tmp_path / "other")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(running, ledger)
    LedgerHeads(tmp_path / "heads.json").start_again("site")
    other.reserve(reserve(order(2)), LAX, MOST_ROUNDS)
    report(running, other, round_index=2)
    assert LedgerHeads(tmp_path / "heads.json").last("site") == other.head
    assert running.trusted() == ["site"]
    assert running.latest() == {"site": other.head}


def test_a_person_can_decide_to_go_on_with_a_ledger_that_was_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    shutil.copytree(tmp_path / "site", tmp_path / "other")
    ledger.reserve(reserve(order(1)), LAX, MOST_ROUNDS)
    report(heads, ledger)
    other = Ledger(tmp_path / "other")
    other.reserve(reserve(order(1), noise=9.0), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError):
        heads.accept("site", other.proof_from(GENESIS), asked(GENESIS))
    with pytest.raises(LedgerError, match="forked before"):
        report(heads, ledger)
    heads.start_again("site")
    again = LedgerHeads(tmp_path / "heads.json")
    report(again, ledger)
    with pytest.raises(LedgerError):
        again.accept("site", other.proof_from(GENESIS), asked(GENESIS))


def test_a_report_without_a_line_of_its_own_is_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    report(heads, ledger)
    with pytest.raises(LedgerError, match="does not lead"):
        heads.accept("site", ledger.proof_from(heads.last("site")), asked(heads.last("site")))


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
        heads.accept("site", copy.proof_from(seen), asked(seen))
    ledger.reserve(reserve(order(3)), LAX, MOST_ROUNDS)
    with pytest.raises(LedgerError, match="forked before"):
        report(LedgerHeads(tmp_path / "heads.json"), ledger)


def test_a_proof_that_leads_elsewhere_is_refused(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    forged = dataclasses.replace(ledger.proof_from(GENESIS), head="f" * 64)
    with pytest.raises(LedgerError, match="does not lead"):
        heads.accept("site", forged, asked(GENESIS))


def test_the_answer_to_an_old_order_proves_its_own_reservation_again(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        report(heads, ledger, index)
    heads.accept("site", ledger.proof_from(heads.last("site"), order(1)), asked(heads.last("site")))
    assert ledger.proof_from(heads.last("site"), order(1)).start == GENESIS
    assert heads.last("site") == ledger.head
