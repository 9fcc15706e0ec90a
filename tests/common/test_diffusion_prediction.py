import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion import flow, prediction
from common.diffusion.prediction import Prediction

ALPHA_BAR = st.floats(1e-4, 1 - 1e-4)
VALUE = st.floats(-5, 5)


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@settings(deadline=None, derandomize=True)
@given(x0=VALUE, eps=VALUE, alpha_bar=ALPHA_BAR, kind=st.sampled_from(Prediction))
def test_target_determines_both_ends_on_the_variance_preserving_path(x0, eps, alpha_bar, kind):
    abar = torch.tensor([alpha_bar], dtype=torch.float64)
    z_t = prediction.noised(one(x0), one(eps), abar)
    output = kind.target(one(x0), one(eps), abar)
    assert kind.to_x0(output, z_t, abar).item() == pytest.approx(x0, abs=1e-9)
    assert kind.to_eps(output, z_t, abar).item() == pytest.approx(eps, abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(output=VALUE, z_t=VALUE, alpha_bar=ALPHA_BAR, kind=st.sampled_from(Prediction))
def test_any_output_is_the_target_of_the_ends_it_implies(output, z_t, alpha_bar, kind):
    abar = torch.tensor([alpha_bar], dtype=torch.float64)
    x0 = kind.to_x0(one(output), one(z_t), abar)
    eps = kind.to_eps(one(output), one(z_t), abar)
    assert kind.target(x0, eps, abar).item() == pytest.approx(output, abs=1e-9)
    assert prediction.noised(x0, eps, abar).item() == pytest.approx(z_t, abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(x0=VALUE, eps=VALUE, angle=st.floats(0.01, math.pi / 2 - 0.01))
def test_v_is_the_derivative_of_z_along_the_angle(x0, eps, angle):
    # Salimans & Ho 2022, Appendix D: z = cos(φ) x0 + sin(φ) eps, v = dz/dφ.
    def z(phi):
        return math.cos(phi) * x0 + math.sin(phi) * eps

    abar = torch.tensor([math.cos(angle) ** 2], dtype=torch.float64)
    slope = (z(angle + 1e-5) - z(angle - 1e-5)) / 2e-5
    assert Prediction.V.target(one(x0), one(eps), abar).item() == pytest.approx(slope, abs=1e-7)


@settings(deadline=None, derandomize=True)
@given(z0=VALUE, eps=VALUE, time=st.floats(0, 1))
def test_velocity_determines_both_ends_of_the_straight_path(z0, eps, time):
    t = torch.tensor([time], dtype=torch.float64)
    z_t = flow.noised(one(z0), one(eps), t)
    output = flow.velocity(one(z0), one(eps))
    assert flow.to_z0(output, z_t, t).item() == pytest.approx(z0, abs=1e-12)
    assert flow.to_eps(output, z_t, t).item() == pytest.approx(eps, abs=1e-12)


def test_each_example_has_its_own_coefficients_at_any_rank():
    abar = torch.tensor([0.25, 0.81])
    x0, eps = torch.ones(2, 3, 1, 1, 1), torch.zeros(2, 3, 1, 1, 1)
    expected = torch.tensor([0.5, 0.9]).reshape(2, 1, 1, 1, 1).expand(2, 3, 1, 1, 1)
    torch.testing.assert_close(prediction.noised(x0, eps, abar), expected)
    expected = torch.tensor([0.75, 0.19]).reshape(2, 1, 1, 1, 1).expand(2, 3, 1, 1, 1)
    torch.testing.assert_close(flow.noised(x0, eps, 1 - torch.tensor([0.75, 0.19])), expected)


def test_small_noise_survives_the_cast_to_float32():
    # 1 - 0.99999999 is 0 in float32: the square root is taken first.
    abar = torch.tensor([1 - 1e-8], dtype=torch.float64)
    noise = prediction.noised(torch.zeros(1, 1), torch.ones(1, 1), abar)
    assert noise.item() == pytest.approx(1e-4, rel=1e-6)


def test_uniform_times_are_uniform():
    time = flow.draw_time(20_000, "uniform", torch.Generator().manual_seed(0)).double().sort().values
    ranks = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert (time - ranks).abs().max() < 0.0138  # Kolmogorov-Smirnov at 1e-3: 1.95 / √n


def test_logit_normal_times_have_a_standard_normal_logit():
    time = flow.draw_time(20_000, "logit_normal", torch.Generator().manual_seed(0)).double()
    ranks = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    normal = torch.special.ndtr(torch.logit(time)).sort().values
    assert (normal - ranks).abs().max() < 0.0138


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_times_stay_inside_the_open_interval(distribution):
    time = flow.draw_time(200_000, distribution, torch.Generator().manual_seed(1))
    assert time.min() > 0
    assert time.max() < 1
