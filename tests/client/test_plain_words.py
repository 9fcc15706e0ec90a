"""What an approval says of a private study's cost: the ledger's own sum, before anything is spent."""

import re

import pytest

from client.agent.plain_words import what_it_costs
from client.policy import Policy
from client.private.ledger import Ledger
from common.privacy.accountant import epsilon
from tests.client.test_installation import PROMISE
from tests.ledger_entries import LAX, MOST_ROUNDS, order, reserve
from tests.small_federation import small_study

STUDY = small_study(privacy=PROMISE, codec__training={"rounds": 0, "local_steps": 1})
DELTA = 1e-5


@pytest.fixture
def policy(tmp_path):
    return Policy(epsilon=6.5, delta=DELTA, ledger=tmp_path / "ledger")


def said(policy):
    """Return what others spent and what it would be, as the words give them."""
    [words, *_] = what_it_costs(STUDY, policy)
    return tuple(float(number) for number in re.findall(r"epsilon (\S+) at .* be (\S+),", words)[0])


def test_before_anything_was_spent_it_is_what_the_study_costs(policy):
    Ledger.create(policy.ledger)
    assert said(policy) == (0.0, pytest.approx(epsilon(STUDY.private_events, DELTA), abs=0.005))
    assert len(what_it_costs(STUDY, policy)) == 1


def test_what_others_spent_counts_and_what_this_study_spent_already_is_not_counted_twice(policy):
    ledger = Ledger.create(policy.ledger)
    ledger.reserve(reserve(steps=300), LAX, MOST_ROUNDS)
    other, together = said(policy)
    assert other == pytest.approx(ledger.spent(DELTA), abs=0.005)
    assert together > max(other, epsilon(STUDY.private_events, DELTA))
    own = order().model_copy(update={"study": STUDY.digest})
    ledger.reserve(reserve(own, noise=3.0), LAX, MOST_ROUNDS)
    assert said(policy) == (other, together)


def test_a_study_that_the_cap_would_end_early_is_named(policy):
    ledger = Ledger.create(policy.ledger)
    ledger.reserve(reserve(steps=3000), LAX, MOST_ROUNDS)
    assert said(policy)[1] > policy.epsilon
    assert "END EARLY" in what_it_costs(STUDY, policy)[1]


def test_a_ledger_that_is_not_there_is_asked_for(policy):
    [words] = what_it_costs(STUDY, policy)
    assert "ledger create" in words


def test_a_study_without_privacy_costs_nothing_that_a_ledger_knows(policy):
    assert what_it_costs(small_study(), policy) == []
    assert what_it_costs(STUDY, Policy()) == []
