import pytest
import torch

from common.diffusion.config import ConditionConfig, DenoiserConfig, DiffusionConfig
from common.diffusion.objective import make_objective
from common.diffusion.optimizer import MatrixOptimizer
from common.diffusion.training import DiffusionTraining
from common.diffusion.unet import UNetDenoiser, initial_denoiser_state, load_denoiser
from common.errors import ConfigError, DataError

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)
CONFIG = DiffusionConfig(denoiser=SMALL, condition=ConditionConfig(kind="class", num_classes=2, dropout=0.2))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh() -> UNetDenoiser:
    """A network that has left its zero-initialised start."""
    state = initial_denoiser_state(SMALL, 2, 2, seeded(0))
    generator = seeded(1)
    return load_denoiser(
        SMALL, 2, 2, {n: p + 0.05 * torch.randn(p.shape, generator=generator) for n, p in state.items()}
    )


def latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that differ in the sign of a fixed pattern."""
    labels = torch.tensor([0, 1] * 4)
    pattern = torch.linspace(-1.5, 1.5, 64).reshape(1, 1, 4, 4, 4).expand(8, 2, 4, 4, 4)
    return pattern * (1.0 - 2.0 * labels).reshape(-1, 1, 1, 1, 1), labels


def run(num_steps: int, noise_seed: int = 3, proximal=None) -> tuple[list[float], dict[str, torch.Tensor]]:
    training = DiffusionTraining(fresh(), CONFIG)
    generator = seeded(noise_seed)
    losses = [training.step(*latents(), 2e-3, generator, proximal) for _ in range(num_steps)]
    return losses, training.state()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_training_is_a_function_of_its_generator():
    torch.manual_seed(1)
    first = run(3)
    torch.manual_seed(2)
    again = run(3)
    assert first[0] == again[0]
    assert same(first[1], again[1])
    assert not same(first[1], run(3, noise_seed=4)[1])


def test_loss_falls_well_below_that_of_a_silent_network():
    losses, _ = run(90)
    start, end = sum(losses[:10]) / 10, sum(losses[-20:]) / 20
    assert end < 0.5 * start


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_steps_follow_the_clipped_gradient_of_the_whole_objective(mu):
    anchor = {name: p + 0.1 for name, p in fresh().state_dict().items()}
    oracle = fresh()
    optimizer = MatrixOptimizer(oracle)
    goal, generator = make_objective(CONFIG), seeded(3)
    for _ in range(3):
        loss = goal.per_example_loss(oracle, *latents(), generator).mean()
        distance = sum((p - anchor[name]).square().sum() for name, p in oracle.named_parameters())
        oracle.zero_grad()
        (loss + mu / 2 * distance).backward()
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
        optimizer.step(2e-3)
    _, state = run(3, proximal=(mu, anchor))
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(state[name], parameter.detach(), rtol=1e-3, atol=1e-4)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Jordan et al. 2024: five times the quintic on every singular value, which takes them to about 1."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


def test_optimizer_steps_by_orthogonalised_momentum_or_adam():
    """Gradients without structure: bfloat16, in which Muon works, is then good to some percent."""
    denoiser, generator, rate = fresh(), seeded(5), 2e-3
    optimizer, hidden = MatrixOptimizer(denoiser), denoiser.hidden_matrices()
    twins = {n: torch.nn.Parameter(p.detach().clone()) for n, p in denoiser.named_parameters()}
    adam = torch.optim.Adam([p for n, p in twins.items() if n not in hidden], lr=rate, betas=(0.9, 0.99))
    momentum = dict.fromkeys(hidden, 0.0)
    for _ in range(3):
        before = {n: p.detach().clone() for n, p in denoiser.named_parameters()}
        for name, parameter in denoiser.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            twins[name].grad = parameter.grad.clone()
        optimizer.step(rate)
        adam.step()
        for name, parameter in denoiser.named_parameters():
            if name not in hidden:
                torch.testing.assert_close(parameter, twins[name])
                continue
            gradient = twins[name].grad.flatten(1)
            momentum[name] = 0.9 * momentum[name] + 0.1 * gradient
            goal = orthogonalised(0.1 * gradient + 0.9 * momentum[name])
            goal *= rate * 0.2 * max(goal.shape) ** 0.5
            moved = (before[name] - parameter.detach()).flatten(1).double()
            assert (moved - goal).norm() < 0.1 * goal.norm(), name


def test_a_parameter_without_gradient_stays():
    denoiser = fresh()
    optimizer = MatrixOptimizer(denoiser)
    optimizer.step(1.0)
    assert same(dict(denoiser.state_dict()), dict(fresh().state_dict()))


def test_hidden_matrices_leave_out_what_meets_the_latent_or_is_looked_up():
    denoiser = fresh()
    left = {name for name, p in denoiser.named_parameters() if p.ndim > 1} - denoiser.hidden_matrices()
    assert left == {"unet.conv_in.conv.weight", "unet.out.2.conv.weight", "unet.class_embedding.weight"}


def test_strong_pull_keeps_the_parameters_near_the_anchor():
    anchor = fresh().state_dict()

    def drift(state):
        return sum((state[name] - anchor[name]).square().sum() for name in anchor)

    assert drift(run(20, proximal=(100.0, anchor))[1]) < 0.5 * drift(run(20)[1])


def test_reported_loss_is_without_the_proximal_term():
    anchor = {name: p + 1.0 for name, p in fresh().state_dict().items()}
    assert run(1, proximal=(1.0, anchor))[0] == run(1)[0]


def test_learning_rate_zero_changes_no_bit():
    training = DiffusionTraining(fresh(), CONFIG)
    training.step(*latents(), 0.0, seeded(3))
    assert same(training.state(), dict(fresh().state_dict()))


def test_state_is_a_copy_with_every_parameter():
    training = DiffusionTraining(fresh(), CONFIG)
    before = training.state()
    training.step(*latents(), 2e-3, seeded(3))
    assert before.keys() == training.denoiser.state_dict().keys()
    assert same(before, dict(fresh().state_dict()))
    assert not same(before, training.state())


def test_a_step_without_latents_is_refused():
    with pytest.raises(DataError, match="no latents"):
        DiffusionTraining(fresh(), CONFIG).step(
            torch.zeros(0, 2, 4, 4, 4), torch.zeros(0, dtype=torch.long), 1e-3, seeded(0)
        )


def test_a_label_without_class_is_refused_before_anything_changes():
    training = DiffusionTraining(fresh(), CONFIG)
    with pytest.raises(ConfigError, match="label 2 "):
        training.step(latents()[0], torch.tensor([0, 1, 2, 0, 1, 0, 1, 0]), 1e-3, seeded(0))
    assert same(training.state(), dict(fresh().state_dict()))
