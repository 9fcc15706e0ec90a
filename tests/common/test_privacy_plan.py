import pytest

from common.errors import ConfigError
from common.frozen import parse
from common.privacy.accountant import epsilon, rdp_epsilon
from common.privacy.plan import PrivacyPlan, calibrate
from common.privacy.summary import noise_to_signal, privacy_summary


def plan(**changes) -> PrivacyPlan:
    usual = {"sampling_rate": 0.1, "nominal_patients": 300, "rounds": 1000, "noise_multiplier": 2.05}
    return PrivacyPlan(**(usual | changes))


@pytest.mark.parametrize(("delta", "sigma"), [(1e-5, 2.05), (3.3e-4, 1.77)])
def test_calibration_of_the_known_case(delta, sigma):
    (calibrated,), spent = calibrate([plan(noise_multiplier=1.0)], 8, delta)
    assert calibrated.noise_multiplier == pytest.approx(sigma, abs=5e-3)
    assert spent <= 8
    assert epsilon([calibrated.with_noise(0.998 * calibrated.noise_multiplier).event], delta) > 8


@pytest.mark.parametrize(("delta", "sigma"), [(1e-5, 2.17), (3.3e-4, 1.90)])
def test_renyi_alone_would_ask_for_more_noise(delta, sigma):
    assert rdp_epsilon([plan(noise_multiplier=sigma).event], delta) == pytest.approx(8, abs=0.05)


def test_spare_rounds_and_all_stages_are_paid_for():
    stages = [plan(rounds=20, spare_rounds=5, steps_per_round=4), plan(rounds=30, steps_per_round=2)]
    assert [stage.steps for stage in stages] == [100, 60]
    calibrated, spent = calibrate(stages, 3, 1e-5)
    assert len({stage.noise_multiplier for stage in calibrated}) == 1
    assert spent == pytest.approx(epsilon([stage.event for stage in calibrated], 1e-5))
    assert 2.99 < spent <= 3


@pytest.mark.parametrize(("steps", "target"), [(100, 0.05), (1, 0.02), (10, 1.0)])
def test_small_targets_are_kept_although_accountants_have_margins(steps, target):
    (calibrated,), spent = calibrate([plan(rounds=steps, noise_multiplier=1.0)], target, 1e-5)
    assert spent == epsilon([calibrated.event], 1e-5) <= target


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(ConfigError, match="no noise"):
        calibrate([plan()], 1e-9, 1e-12)


def test_nothing_to_calibrate_is_refused():
    with pytest.raises(ConfigError, match="no stage"):
        calibrate([], 8, 1e-5)


def test_a_plan_in_which_nobody_takes_part_is_refused():
    content = {"sampling_rate": 0.001, "nominal_patients": 300, "rounds": 1, "noise_multiplier": 1}
    with pytest.raises(ConfigError, match="fewer than one patient"):
        parse(PrivacyPlan, content, "study.yaml")


def test_noise_to_signal_is_the_closed_form_and_balances_where_it_says():
    """By hand: 2.05 sqrt(1500) / (30 sqrt(3)) = 1.5280; over 1000 steps 0.04832."""
    quotient = noise_to_signal(plan(), 1500, 3)
    assert quotient.per_step == pytest.approx(1.5280, abs=1e-4)
    assert quotient.over_run == pytest.approx(0.04832, abs=1e-5)
    at_balance = noise_to_signal(plan(), quotient.balanced_dimension, 3)
    assert at_balance.per_step == pytest.approx(1, abs=1e-2)
    over = noise_to_signal(plan(), quotient.balanced_dimension_over_run, 3)
    assert over.over_run == pytest.approx(1, abs=1e-2)


def test_the_summary_of_the_known_plan():
    """Sigma 2.05, three sites: 8 against the server, 3.97 and 5.09 where the noise of others counts."""
    summary = privacy_summary({"diffusion": plan()}, 1e-5, quorum=3)
    assert summary.against_server == pytest.approx(8.0, abs=0.02)
    assert summary.against_outsider == pytest.approx(3.97, abs=0.02)
    assert summary.against_other_site == pytest.approx(5.09, abs=0.02)
    assert summary.known_to[2] == pytest.approx(epsilon([plan(rounds=2000).event], 1e-5))
    assert summary.known_to[3] == pytest.approx(epsilon([plan(rounds=3000).event], 1e-5))


def test_pooled_noise_is_not_claimed_for_local_training():
    with pytest.raises(ConfigError, match="steps a round"):
        privacy_summary({"diffusion": plan(rounds=100, steps_per_round=10)}, 1e-5, quorum=3)


def test_without_a_quorum_only_the_sites_own_noise_counts():
    summary = privacy_summary({"diffusion": plan(rounds=10, steps_per_round=10)}, 1e-5, quorum=None)
    assert summary.against_outsider is None
    assert summary.against_other_site is None


def test_stages_share_one_delta_and_are_composed_together():
    stages = {"codec": plan(rounds=300, noise_multiplier=6), "diffusion": plan(noise_multiplier=6)}
    summary = privacy_summary(stages, 1e-5, quorum=None)
    assert max(summary.by_stage.values()) < summary.against_server < sum(summary.by_stage.values())


def test_spare_rounds_are_paid_for():
    spared = plan(rounds=10, spare_rounds=5, steps_per_round=3)
    assert spared.event.steps == spared.steps == 45
    assert spared.event == spared.event_of(15) == plan(rounds=15, steps_per_round=3).event
    few, _ = calibrate([plan(rounds=10)], 3.0, 1e-5)
    more, _ = calibrate([plan(rounds=10, spare_rounds=10)], 3.0, 1e-5)
    assert more[0].noise_multiplier > few[0].noise_multiplier
