"""The ledger never forgets a spend: closed form of its chain, budgets, replies, who may read it."""

import hashlib
import json

import pytest

from client.ledger_export import registry_entry
from client.private.budget import Budget
from client.private.ledger import Ledger
from common.errors import BudgetError, LedgerError
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian
from common.privacy.ledger_format import (
    GENESIS,
    LedgerLine,
    next_line,
    spent_events,
)
from tests.ledger_entries import LAX, MOST_ROUNDS, order, reserve


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


def test_a_head_that_is_not_the_ledgers_own_cannot_be_acknowledged(tmp_path):
    with pytest.raises(LedgerError, match="missing"):
        Ledger.create(tmp_path / "ledger").acknowledge("f" * 64)


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


def test_every_head_there_was_is_written_down_and_may_be_acknowledged(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    seen = [GENESIS]
    for index in (1, 2, 3):
        ledger.reserve(reserve(order(index)), LAX, MOST_ROUNDS)
        seen.append(ledger.head)
    for head in (*seen, seen[3], seen[1]):
        ledger.acknowledge(head)
    written = (ledger.folder / "heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["head"] for line in written] == seen[1:]


def test_a_line_s_digest_does_not_tell_its_time_to_who_knows_all_the_rest(tmp_path):
    one, other = (next_line(GENESIS, reserve()) for _ in range(2))
    assert one.entry.model_copy(update={"salt": other.entry.salt}) == other.entry
    assert one.body != other.body
    ledgers = [Ledger.create(tmp_path / name) for name in "ab"]
    for ledger in ledgers:
        ledger.reserve(reserve(), LAX, MOST_ROUNDS)
        ledger.commit(order(), b"reply")
    salts = {entry.salt for ledger in ledgers for entry in ledger.entries()}
    assert len(salts) == 4


def test_two_studies_never_share_a_reply(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger")
    ledger.reserve(reserve(), LAX, MOST_ROUNDS)
    ledger.commit(order(), b"reply")
    assert ledger.stored_reply(order(study="e")) is None


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
