"""Schedules, conversions and samplers against data whose best denoiser is known.

For data N(m, s²) and z_t = a x0 + b eps, everything is jointly Gaussian, so with k = a² s² + b²

    E[x0 | z_t] = m + a s² (z_t - a m) / k        E[eps | z_t] = b (z_t - a m) / k

and every prediction is a linear function of z_t. A sampler is then an affine map of its start and of
each noise it adds. The tests read off that map exactly, in float64, by feeding it unit vectors: no
statistics of samples, no tolerance for chance.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from common.diffusion.ancestral import sample_ddim, sample_ddpm
from common.diffusion.objective import FlowPath, Objective, VariancePreservingPath
from common.diffusion.ode import sample_euler, sample_heun
from common.diffusion.prediction import Prediction
from common.diffusion.schedule import NoiseSchedule

MEAN, STD = 1.5, 0.4
SCHEDULE = NoiseSchedule.cosine(1000)
PREDICTIONS = [Prediction.X0, Prediction.EPS, Prediction.V]


def best_ends(z_t, a, b):
    deviation = (z_t - a * MEAN) / (a**2 * STD**2 + b**2)
    return MEAN + a * STD**2 * deviation, b * deviation


def best_denoiser(path):
    def denoiser(z_t, time, labels):
        if isinstance(path, FlowPath):
            t = time.double().reshape(-1, 1)
            x0, eps = best_ends(z_t, 1 - t, t)
            return eps - x0
        abar = path.schedule.alpha_bar(time).reshape(-1, 1)
        a, b = abar.sqrt(), (1 - abar).sqrt()
        x0, eps = best_ends(z_t, a, b)
        return {Prediction.X0: x0, Prediction.EPS: eps, Prediction.V: a * eps - b * x0}[path.prediction]

    return denoiser


@dataclass
class AffineMap:
    """A sampler as shift + gain · start + Σ_k noise_gains[k] · noise_k."""

    shift: float
    gain: float
    noise_gains: torch.Tensor

    @property
    def variance(self) -> float:
        return self.gain**2 + float(self.noise_gains.square().sum())


def read_off(sample, max_draws: int = 0) -> AffineMap:
    """Row 0 starts at 0, row 1 at 1; row 2 + k starts at 0 and gets a unit noise at draw k."""
    start = torch.zeros(2 + max_draws, 1, dtype=torch.float64)
    start[1] = 1.0
    draws = iter(range(max_draws))

    def one_hot():
        noise = torch.zeros_like(start)
        noise[2 + next(draws)] = 1.0
        return noise

    result = sample(start, one_hot).flatten()
    shift = result[0].item()
    return AffineMap(shift, (result[1] - result[0]).item(), result[2:] - result[0])


def ddpm(prediction, num_steps):
    path = VariancePreservingPath(SCHEDULE, prediction)
    return read_off(
        lambda start, draw: sample_ddpm(best_denoiser(path), path, start, None, num_steps, draw),
        max_draws=num_steps,
    )


def ddim(prediction, num_steps, eta=0.0):
    path = VariancePreservingPath(SCHEDULE, prediction)
    return read_off(
        lambda start, draw: sample_ddim(best_denoiser(path), path, start, None, num_steps, draw, eta),
        max_draws=num_steps if eta else 0,
    )


def flow(sampler, num_steps):
    denoiser = best_denoiser(FlowPath("uniform"))
    return read_off(lambda start, _: sampler(denoiser, start, None, num_steps))


def start_leak(prediction):
    """Return a, how much of the mean the start should have held: eps begins at alpha_bar 1e-3."""
    if prediction is Prediction.EPS:
        return math.sqrt(SCHEDULE.alpha_bars[SCHEDULE.alpha_bars >= 1e-3][-1].item())
    return math.sqrt(SCHEDULE.alpha_bars[-1].item())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_reproduces_mean_and_deviation(prediction):
    result = ddpm(prediction, 1000)
    assert result.shift == pytest.approx(MEAN, rel=2e-3)
    assert math.sqrt(result.variance) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_reproduces_mean_and_deviation(prediction, eta):
    result = ddim(prediction, 1000, eta)
    # A deterministic path never forgets that it began without its share a of the mean.
    missing = start_leak(prediction) * MEAN * STD if eta == 0 else 0
    assert result.shift == pytest.approx(MEAN - missing, rel=2e-3)
    assert math.sqrt(result.variance) == pytest.approx(STD, rel=0.03)


def test_flow_samplers_reproduce_mean_and_deviation():
    # The exact solution is mean + std · start.
    for sampler, tolerance in [(sample_euler, 5e-3), (sample_heun, 1e-4)]:
        result = flow(sampler, 400)
        assert result.shift == pytest.approx(MEAN, rel=tolerance)
        assert result.gain == pytest.approx(STD, rel=tolerance)


def order(error_of, num_steps):
    """Return how often the error halves when the steps double."""
    return math.log2(abs(error_of(num_steps)) / abs(error_of(2 * num_steps)))


def test_euler_converges_at_first_order_and_heun_at_second():
    assert order(lambda n: flow(sample_euler, n).gain - STD, 100) == pytest.approx(1, abs=0.1)
    assert order(lambda n: flow(sample_heun, n).gain - STD, 100) == pytest.approx(2, abs=0.1)


def test_heun_is_worth_its_second_call_from_few_steps_on():
    error = {sampler: abs(flow(sampler, 12).gain - STD) for sampler in (sample_euler, sample_heun)}
    error_euler_24 = abs(flow(sample_euler, 24).gain - STD)
    assert error[sample_heun] < error_euler_24 / 3 < error[sample_euler]


@pytest.mark.parametrize("prediction", [Prediction.X0, Prediction.V])
def test_ddim_converges_at_first_order(prediction):
    assert order(lambda n: ddim(prediction, n).gain - STD, 50) == pytest.approx(1, abs=0.15)


def test_ancestral_variance_converges_at_first_order():
    assert order(lambda n: ddpm(Prediction.V, n).variance - STD**2, 100) == pytest.approx(1, abs=0.2)


def test_every_prediction_gives_the_same_sampler():
    # x0 and v start at the same timestep; what the network is asked for cannot matter.
    for sampler in (ddpm, ddim):
        x0, v = sampler(Prediction.X0, 20), sampler(Prediction.V, 20)
        assert x0.shift == pytest.approx(v.shift, abs=1e-9)
        assert x0.variance == pytest.approx(v.variance, abs=1e-9)


def test_ddim_with_eta_one_is_ddpm_for_any_denoiser():
    path = VariancePreservingPath(SCHEDULE, Prediction.V)

    def nonlinear(z_t, time, labels):
        return torch.sin(2 * z_t) + time.reshape(-1, 1)

    def run(sample, **options):
        generator = torch.Generator().manual_seed(3)
        start = torch.randn(5, 4, generator=generator, dtype=torch.float64)

        def draw():
            return torch.randn(5, 4, generator=generator, dtype=torch.float64)

        return sample(nonlinear, path, start, None, 10, draw, **options)

    torch.testing.assert_close(run(sample_ddim, eta=1.0), run(sample_ddpm), rtol=1e-9, atol=1e-9)


def test_first_ancestral_step_is_bayes_rule():
    # z_s | x0 ~ N(√ᾱ_s x0, 1 - ᾱ_s) and z_t | z_s ~ N(√α z_s, 1 - α): precisions add.
    path = VariancePreservingPath(SCHEDULE, Prediction.X0)
    t, s = SCHEDULE.sampling_timesteps(2)
    abar_t, abar_s = SCHEDULE.alpha_bars[t].item(), SCHEDULE.alpha_bars[s].item()
    alpha, x0, z_t, noise = abar_t / abar_s, 0.7, -1.3, 2.0
    seen = []

    def knows_x0(z, time, labels):
        seen.append(z.item())
        return torch.full_like(z, x0)

    start = torch.tensor([[z_t]], dtype=torch.float64)
    sample_ddpm(knows_x0, path, start, None, 2, lambda: torch.full_like(start, noise))
    variance = 1 / (1 / (1 - abar_s) + alpha / (1 - alpha))
    mean = variance * (math.sqrt(abar_s) * x0 / (1 - abar_s) + math.sqrt(alpha) * z_t / (1 - alpha))
    assert seen[1] == pytest.approx(mean + math.sqrt(variance) * noise, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step_adds_eta_times_the_ancestral_deviation_and_keeps_the_total(eta):
    # Song et al. 2021, Eq. 16: the noise of z_s given x0 has variance 1 - ᾱ_s whatever eta is.
    path = VariancePreservingPath(SCHEDULE, Prediction.X0)
    t, s = SCHEDULE.sampling_timesteps(2)
    abar_t, abar_s = SCHEDULE.alpha_bars[t].item(), SCHEDULE.alpha_bars[s].item()
    seen = []

    def says_zero(z, time, labels):
        seen.append(z)
        return torch.zeros_like(z)

    start = torch.tensor([[math.sqrt(1 - abar_t)], [0.0]], dtype=torch.float64)  # eps of 1, then of 0
    noise = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    sample_ddim(says_zero, path, start, None, 2, lambda: noise, eta)
    from_eps, from_noise = seen[1].flatten().tolist()
    ancestral = math.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
    assert from_noise == pytest.approx(eta * ancestral, abs=1e-12)
    assert from_eps**2 + from_noise**2 == pytest.approx(1 - abar_s, rel=1e-9)


@pytest.mark.parametrize(
    "path", [VariancePreservingPath(SCHEDULE, p) for p in PREDICTIONS] + [FlowPath("logit_normal")]
)
def test_no_linear_denoiser_has_a_smaller_loss_than_the_best_one(path):
    generator = torch.Generator().manual_seed(0)
    z0 = MEAN + STD * torch.randn(64, 4096, generator=generator, dtype=torch.float64)
    objective = Objective(path)
    draws = objective.draw(z0, generator)
    best = best_denoiser(path)
    loss = objective.loss_at(best, z0, None, draws).mean()
    for gain, shift in [(1.03, 0.0), (0.97, 0.0), (1.0, 0.03), (1.0, -0.03)]:

        def worse(z_t, time, labels, gain=gain, shift=shift):
            return gain * best(z_t, time, labels) + shift

        assert objective.loss_at(worse, z0, None, draws).mean() > loss
