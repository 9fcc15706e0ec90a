"""Known answers, each tied to its accountant, and laws that any accountant obeys."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from common.errors import AccountingError
from common.privacy import accountant
from common.privacy.accountant import epsilon, pld_epsilon, rdp_epsilon
from common.privacy.attack_bounds import attack_bounds
from common.privacy.events import SampledGaussian
from common.privacy.prv import EPS_ERROR, prv_epsilon


def event(sampling_rate: float, noise_multiplier: float, steps: int) -> SampledGaussian:
    return SampledGaussian(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle & Wang 2018, Theorem 8, solved by bisection: the oracle for q = 1, where mu = sqrt(T) / sigma."""

    def delta_of(eps: float) -> float:
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)

    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return high


def test_renyi_bound_of_the_known_case():
    assert rdp_epsilon([event(0.04, 1.5, 2250)], 1e-5) == pytest.approx(7.3291, abs=5e-4)


def test_privacy_loss_random_variables_of_the_known_case():
    assert prv_epsilon([event(0.04, 1.5, 2249)], 1e-5) == pytest.approx(6.7774, abs=1e-4)


def test_privacy_loss_distributions_of_the_known_case():
    many = event(0.01, 4, 10_000)
    assert pld_epsilon([many], 1e-5) == pytest.approx(0.947, abs=5e-4)
    assert pld_epsilon([many], 1e-5) < 1.26  # what the moments accountant of 2016 said


@pytest.mark.parametrize(("noise", "steps", "delta"), [(8, 200, 1e-5), (20, 10, 1e-3), (3, 1, 1e-6)])
def test_without_sampling_epsilon_is_the_closed_form(noise, steps, delta):
    exact = gaussian_epsilon(math.sqrt(steps) / noise, delta)
    assert pld_epsilon([event(1, noise, steps)], delta) == pytest.approx(exact, abs=2e-3)
    assert exact <= epsilon([event(1, noise, steps)], delta) <= exact + 1.5 * EPS_ERROR


def test_closed_form_of_the_known_case():
    assert gaussian_epsilon(math.sqrt(200) / 8, 1e-5) == pytest.approx(8.5959, abs=1e-4)


@settings(max_examples=8, deadline=None)
@given(
    sampling_rate=st.floats(0.02, 0.5),
    noise=st.floats(1.5, 8.0),
    steps=st.integers(1, 400),
    more=st.integers(1, 200),
)
def test_more_steps_or_less_noise_never_cost_less(sampling_rate, noise, steps, more):
    spent = epsilon([event(sampling_rate, noise, steps)], 1e-5)
    assert epsilon([event(sampling_rate, noise, steps + more)], 1e-5) >= spent - 1e-6
    assert epsilon([event(sampling_rate, 0.8 * noise, steps)], 1e-5) >= spent - 1e-6


def test_a_joint_composition_is_less_than_the_sum_and_the_order_does_not_matter():
    codec, denoiser = event(0.2, 6, 300), event(0.2, 6, 1500)
    joint = epsilon([codec, denoiser], 1e-4)
    assert joint == pytest.approx(epsilon([denoiser, codec], 1e-4), abs=1e-6)
    assert joint < 0.9 * (epsilon([codec], 1e-4) + epsilon([denoiser], 1e-4))
    assert joint == pytest.approx(epsilon([event(0.2, 6, 1800)], 1e-4), abs=0.01)


def test_splitting_steps_over_rounds_changes_nothing():
    whole = epsilon([event(0.1, 2, 100)], 1e-5)
    assert epsilon([event(0.1, 2, 10)] * 10, 1e-5) == pytest.approx(whole, abs=0.01)


def test_nothing_costs_nothing():
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(AccountingError, match="delta"):
        epsilon([event(0.1, 2, 10)], delta)


@pytest.mark.parametrize("wrong", [0.9, 1.1, math.nan])
def test_accountants_that_disagree_are_refused(monkeypatch, wrong):
    events = [event(0.1, 2, 1000)]
    monkeypatch.setattr(accountant, "prv_epsilon", lambda *args: wrong * prv_epsilon(*args))
    with pytest.raises(AccountingError, match="disagree"):
        epsilon(events, 1e-5)


def test_an_epsilon_above_the_renyi_bound_is_refused(monkeypatch):
    monkeypatch.setattr(accountant, "rdp_epsilon", lambda *_: 7.9)
    with pytest.raises(AccountingError, match="Renyi"):
        epsilon([event(0.1, 2.05, 1000)], 1e-5)


def test_next_to_no_noise_is_an_infinite_epsilon():
    assert epsilon([event(0.1, 1e-9, 10)], 1e-5) > 1e6
    assert epsilon([event(1.0, 1e-9, 10)], 1e-5) > 1e6


def test_beyond_fifty_the_renyi_bound_is_the_answer():
    lax = [event(0.1, 0.6, 1000)]
    assert epsilon(lax, 1e-5) == rdp_epsilon(lax, 1e-5) > 50


def test_the_trade_off_curve_is_the_closed_form_without_sampling():
    """Dong et al. 2022, Eq. 6 for mu = sqrt(T) / sigma, whose area is Phi(mu / sqrt 2)."""
    mu = math.sqrt(200) / 8
    bounds = attack_bounds([event(1, 8, 200)])
    exact = norm.cdf(norm.ppf(bounds.false_positive_rates[1:-1]) + mu)
    assert bounds.true_positive_rates[1:-1] == pytest.approx(exact, abs=1e-3)
    assert (bounds.true_positive_rates[1:-1] >= exact - 1e-6).all()
    assert bounds.auc == pytest.approx(norm.cdf(mu / math.sqrt(2)), abs=1e-4)


def test_bounds_on_membership_inference_of_the_known_plan():
    """Sigma 2.05, q 0.1, 1000 steps: 0.87 and 0.24."""
    bounds = attack_bounds([event(0.1, 2.05, 1000)])
    assert 0.80 < bounds.auc < 0.8725
    assert 0.20 < bounds.tpr_at_1_percent < 0.2425


def test_without_a_signal_every_test_guesses():
    bounds = attack_bounds([event(0.01, 1e4, 1)])
    assert bounds.auc == pytest.approx(0.5, abs=1e-3)
    assert bounds.tpr_at_1_percent == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.1, 2.0528, 1000), (1, 0.6009, 1)])
def test_the_bounds_on_attacks_that_the_privacy_page_states_are_of_the_plans_that_it_names(
    rate, noise, steps
):
    page = " ".join((Path(__file__).parents[2] / "docs" / "privacy.md").read_text().split())
    bounds = attack_bounds([event(rate, noise, steps)])
    assert f" {math.ceil(bounds.auc * 1000) / 1000}" in page
    assert f"{math.ceil(bounds.tpr_at_1_percent * 1000) / 10} %" in page
