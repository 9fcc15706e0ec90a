import pytest
import torch

from common.diffusion.config import ConditionConfig, DiffusionConfig, SamplerConfig
from common.diffusion.denoiser import NULL_LABEL
from common.diffusion.objective import Draws, make_objective

OBJECTIVES = ["eps", "v", "flow"]


def config(objective: str, dropout: float = 0.0) -> DiffusionConfig:
    kind = "heun" if objective == "flow" else "ddim"
    return DiffusionConfig(
        objective=objective, condition=ConditionConfig(dropout=dropout), sampler=SamplerConfig(kind=kind)
    )


def nonlinear(z_t, time, labels):
    shift = 0.0 if labels is None else labels.reshape(-1, 1).to(z_t.dtype)
    return torch.sin(3 * z_t) + time.reshape(-1, 1) + shift


def constant(value):
    return lambda z_t, time, labels: torch.full_like(z_t, value)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_of_an_all_knowing_denoiser_is_zero(objective):
    goal = make_objective(config(objective))
    z0 = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    draws = goal.draw(z0, torch.Generator().manual_seed(1))
    target = goal.path.target(z0, draws.eps, draws.time)
    assert torch.equal(goal.loss_at(lambda z, t, y: target, z0, None, draws), torch.zeros(6))


@pytest.mark.parametrize(
    ("objective", "expected"),
    # Var[eps] = 1; Var[v] = ᾱ + (1 - ᾱ) s²; Var[eps - z0] = 1 + s², here with s = 2 and ᾱ uniform-ish.
    [("eps", lambda abar: 1.0), ("v", lambda abar: abar + (1 - abar) * 4), ("flow", lambda abar: 5.0)],
)
def test_loss_of_a_silent_denoiser_is_the_targets_variance(objective, expected):
    goal = make_objective(config(objective))
    z0 = 2 * torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0))
    draws = goal.draw(z0, torch.Generator().manual_seed(1))
    loss = goal.loss_at(constant(0.0), z0, None, draws)
    for value, time in zip(loss, draws.time, strict=True):
        abar = 0.0 if objective == "flow" else goal.path.schedule.alpha_bar(time[None]).item()
        assert value.item() == pytest.approx(expected(abar), rel=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_example_does_not_touch_anothers_loss_or_gradient(objective):
    goal = make_objective(config(objective, dropout=0.5))
    z0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(5)
    draws = goal.draw(z0.detach(), torch.Generator().manual_seed(1))
    loss = goal.loss_at(nonlinear, z0, labels, draws)
    (gradient,) = torch.autograd.grad(loss[2], z0)
    assert gradient[2].abs().sum() > 0
    assert torch.equal(gradient[[0, 1, 3, 4]], torch.zeros(4, 3))
    other = z0.detach().clone()
    other[4] = 100.0
    changed = goal.loss_at(nonlinear, other, labels, draws)
    assert torch.equal(changed[:4], loss[:4].detach())
    assert changed[4] != loss[4]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_drawing_then_evaluating_is_the_per_example_loss(objective):
    goal = make_objective(config(objective, dropout=0.3))
    z0, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    whole = goal.per_example_loss(nonlinear, z0, labels, torch.Generator().manual_seed(7))
    draws = goal.draw(z0, torch.Generator().manual_seed(7))
    assert torch.equal(whole, goal.loss_at(nonlinear, z0, labels, draws))
    other = goal.per_example_loss(nonlinear, z0, labels, torch.Generator().manual_seed(8))
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_drawing_leaves_the_global_generator_alone(objective):
    before = torch.get_rng_state()
    make_objective(config(objective, dropout=0.3)).draw(torch.zeros(4, 3), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_discrete_times_are_the_schedules_grid_and_reach_both_ends():
    goal = make_objective(config("v"))
    time = goal.path.draw_time(50_000, torch.Generator().manual_seed(0)).double() * 1000
    torch.testing.assert_close(time, time.round(), rtol=0, atol=1e-3)
    assert time.round().min() == 1
    assert time.round().max() == 1000


def test_each_examples_label_is_dropped_on_its_own():
    goal = make_objective(config("flow", dropout=0.5))
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(goal.draw(torch.zeros(2, 1), generator).drop_label.tolist()) for _ in range(2000)]
    for outcome in [(False, False), (False, True), (True, False), (True, True)]:
        assert pairs.count(outcome) / 2000 == pytest.approx(0.25, abs=0.04)  # 4 standard errors


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_dropped_share_is_the_configured_one(dropout):
    goal = make_objective(config("v", dropout))
    drop = goal.draw(torch.zeros(20_000, 1), torch.Generator().manual_seed(0)).drop_label
    assert drop.double().mean().item() == pytest.approx(dropout, abs=0.01)


def test_dropped_examples_carry_the_null_label_and_the_rest_their_own():
    seen = []

    def record(z_t, time, labels):
        seen.append(labels)
        return z_t

    goal = make_objective(config("flow"))
    drop = torch.tensor([True, False, True])
    draws = Draws(time=torch.full((3,), 0.5), eps=torch.zeros(3, 1), drop_label=drop)
    given = torch.tensor([4, 5, 6])
    goal.loss_at(record, torch.zeros(3, 1), given, draws)
    assert seen[0].tolist() == [NULL_LABEL, 5, NULL_LABEL]
    assert given.tolist() == [4, 5, 6]
