"""The server follows each ledger: late reports pass, rollbacks and forks do not."""

import dataclasses
import shutil

import pytest

from client.private.ledger import Ledger
from common.errors import LedgerError
from common.privacy.ledger_format import (
    GENESIS,
    chain_head,
)
from server.ledger_heads import LedgerHeads
from tests.ledger_entries import LAX, MOST_ROUNDS, order, reserve


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


def test_the_answer_to_an_old_order_proves_its_own_reservation_again(tmp_path):
    heads, ledger = LedgerHeads(tmp_path / "heads.json"), Ledger.create(tmp_path / "site")
    for index in (1, 2):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        report(heads, ledger)
    heads.accept("site", ledger.proof_from(heads.last("site"), order(1)))
    assert ledger.proof_from(heads.last("site"), order(1)).start == GENESIS
    assert heads.last("site") == ledger.head
