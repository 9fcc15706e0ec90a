"""The audit passes the real private step and catches it without noise or with an eighth of it."""

import math

import pytest
from scipy.stats import binom

from client.private.gradient_engines import hook_gradients, loop_gradients, vmap_gradients
from common.privacy.plan import PrivacyPlan, calibrate
from experiments.privacy_audit import CONFIDENCE, audit, epsilon_lower_bound

DELTA = 1e-5


@pytest.fixture(scope="module")
def plan() -> PrivacyPlan:
    """Epsilon 1."""
    usual = PrivacyPlan(sampling_rate=0.25, nominal_patients=100, rounds=100, noise_multiplier=1.0)
    return calibrate([usual], 1.0, DELTA)[0][0]


@pytest.mark.parametrize("engine", [loop_gradients, hook_gradients, vmap_gradients])
def test_the_real_step_passes_at_epsilon_one(plan, engine):
    result = audit(plan, DELTA, seed=0, engine=engine)
    assert result.claimed_epsilon == pytest.approx(1, abs=0.01)
    assert result.epsilon_lower_bound < 1
    assert result.passed


def test_a_step_without_noise_is_caught(plan):
    result = audit(plan.with_noise(1e-9), DELTA, seed=0, claimed=plan)
    assert result.epsilon_lower_bound > 2
    assert not result.passed


def test_an_eighth_of_the_noise_is_caught(plan):
    result = audit(plan.with_noise(plan.noise_multiplier / 8), DELTA, seed=0, claimed=plan)
    assert result.epsilon_lower_bound > 1
    assert not result.passed


def test_without_delta_the_bound_is_that_of_a_binomial():
    """All of r right: (e^eps / (1 + e^eps))^r = 0.05 in closed form."""
    for num in (10, 60, 200):
        success = (1 - CONFIDENCE) ** (1 / num)
        exact = math.log(success / (1 - success))
        assert epsilon_lower_bound(200, num, num, 0.0) == pytest.approx(exact, abs=1e-3)


def test_the_bound_is_where_the_tail_has_five_percent():
    bound = epsilon_lower_bound(200, 60, 50, 0.0)
    assert binom.sf(49, 60, 1 / (1 + math.exp(-bound))) == pytest.approx(0.05, abs=1e-3)


def test_delta_weakens_what_guesses_prove_and_chance_proves_nothing():
    assert epsilon_lower_bound(200, 60, 60, 1e-3) < epsilon_lower_bound(200, 60, 60, 1e-5)
    assert epsilon_lower_bound(200, 60, 30, 1e-5) == 0.0
