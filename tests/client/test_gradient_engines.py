"""Three ways to the gradient of each patient: equal to plain autograd, and leaving nothing behind."""

import pytest
import torch
from torch import nn

from client.private.gradient_engines import (
    hook_gradients,
    loop_gradients,
    vmap_gradients,
)
from client.private.private_step import clip_and_sum
from common.diffusion.adapters import adapt
from common.diffusion.config import TrainableConfig
from common.errors import PrivacyError
from common.privacy.guard import refuse_leaks
from common.privacy.patient_gradients import trainable
from tests.private_step_parts import (
    ENGINES,
    NUM_VOLUMES,
    denoiser,
    difference,
    gathered,
    loss,
    norm,
)


@pytest.mark.parametrize("engine", ["hooks", "vmap"])
@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 1e3])
def test_engines_equal_the_oracle_on_the_clipped_sum(engine, clip_norm):
    rows, counts = gathered(NUM_VOLUMES)
    oracle = clip_and_sum(loop_gradients(denoiser(), loss, rows, counts), clip_norm)
    found = clip_and_sum(ENGINES[engine](denoiser(), loss, rows, counts), clip_norm)
    assert found.keys() == oracle.keys() == trainable(denoiser()).keys()
    assert norm(difference(found, oracle)) < 1e-3 * norm(oracle)


@pytest.mark.parametrize("engine", ["hooks", "vmap"])
@pytest.mark.parametrize(
    "config",
    [
        TrainableConfig(kind="lora", rank=2),
        TrainableConfig(kind="film"),
        TrainableConfig(kind="norm"),
        TrainableConfig(kind="bias"),
    ],
    ids=lambda config: config.kind,
)
def test_engines_equal_the_oracle_with_every_kind_of_adapter(engine, config):
    network = denoiser()
    trained = adapt(network, config, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name in trained:  # away from the start, where half of a low-rank pair has no gradient
            parameter = network.get_parameter(name)
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    rows, counts = gathered(NUM_VOLUMES)
    oracle = clip_and_sum(loop_gradients(network, loss, rows, counts), 0.05)
    found = clip_and_sum(ENGINES[engine](network, loss, rows, counts), 0.05)
    assert tuple(found) == trained
    assert norm(difference(found, oracle)) < 1e-3 * norm(oracle)
    assert norm(oracle) > 0.05
    refuse_leaks(network, loss, {name: tensor[:3] for name, tensor in rows.items()}, ENGINES[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_all_rows_of_a_patient_are_one_mean(engine):
    """Three volumes times two draws equal autograd of the mean of the six."""
    rows, counts = gathered(["bob"])
    assert counts == [6]
    network = denoiser()
    loss(network, rows).mean().backward()
    found = ENGINES[engine](denoiser(), loss, rows, counts)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name][0], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_leave_the_network_as_it_was(engine):
    network = denoiser()
    before = {name: p.clone() for name, p in network.state_dict().items()}
    ENGINES[engine](network, loss, *gathered(["ann", "bob"]))
    assert all(torch.equal(before[name], p) for name, p in network.state_dict().items())
    for parameter in network.parameters():
        assert parameter.grad is None
        assert getattr(parameter, "grad_sample", None) is None
    loss(network, gathered(["ann"])[0]).sum().backward()  # no hook is left behind
    assert all(getattr(p, "grad_sample", None) is None for p in network.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_have_no_gradient(engine):
    network = denoiser()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("bias" in name)
    found = ENGINES[engine](network, loss, *gathered(["ann", "bob"]))
    assert found.keys() == {name for name, _ in network.named_parameters() if "bias" in name}
    oracle = loop_gradients(denoiser(), loss, *gathered(["ann", "bob"]))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, oracle[name], rtol=1e-3, atol=1e-5)


def test_a_pass_that_failed_leaves_nothing_to_the_next_patient():
    """A layer used twice, and a failure between its two backward passes, as when memory runs out."""

    class Failing(torch.autograd.Function):
        fails = True

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if Failing.fails:
                raise RuntimeError("out of memory")
            return gradient

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(Failing.apply(self.layer(x)))

    def sum_of(module, rows):
        return module(rows["x"]).sum(dim=1)

    torch.manual_seed(0)
    module, rows = Twice(), {"x": torch.randn(1, 3)}
    with pytest.raises(RuntimeError, match="out of memory"):
        hook_gradients(module, sum_of, {"x": torch.randn(1, 3)}, [1])
    Failing.fails = False
    found, oracle = hook_gradients(module, sum_of, rows, [1]), loop_gradients(module, sum_of, rows, [1])
    for name in oracle:
        torch.testing.assert_close(found[name], oracle[name])


class OffThePath(nn.Module):
    """Layers whose inputs no row's gradient flows to: a constant's, an index', a frozen layer's."""

    def __init__(self):
        super().__init__()
        self.frozen, self.last = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)
        self.of_constant, self.of_index = nn.Linear(2, 2), nn.Embedding(5, 2)
        self.after_index = nn.Linear(2, 2)
        self.scale = nn.LayerNorm(2)

    def forward(self, x, index):
        constant = self.of_constant(torch.ones(len(x), 2))
        looked_up = self.after_index(self.of_index(index))
        return self.scale(self.last(self.frozen(x).detach()) + constant * looked_up)


def test_hooks_see_layers_that_no_row_s_gradient_flows_to():
    torch.manual_seed(0)
    module, rows = OffThePath(), {"x": torch.randn(6, 3), "index": torch.tensor([0, 4, 2, 2, 1, 0])}

    def square(network, own):
        return network(own["x"], own["index"]).square().sum(dim=1)

    found, oracle = (engine(module, square, rows, [1, 3, 2]) for engine in (hook_gradients, loop_gradients))
    assert found.keys() == oracle.keys()
    for name in oracle:
        assert float(oracle[name].abs().max()) > 1e-4
        torch.testing.assert_close(found[name], oracle[name])


def test_a_layer_that_mixes_rows_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x.reshape(-1, 3)).reshape(len(x), -1)

    def sum_of(module, rows):
        return module(rows["x"]).sum(dim=1)

    with pytest.raises(PrivacyError, match="each of 4 rows"):
        hook_gradients(Mixing(), sum_of, {"x": torch.randn(4, 2, 3)}, [2, 2])
    # vmap is right there: the oracle says so.
    found, oracle = (
        engine(Mixing().requires_grad_(), sum_of, {"x": torch.ones(4, 2, 3)}, [2, 2])
        for engine in (vmap_gradients, loop_gradients)
    )
    torch.testing.assert_close(found["linear.weight"], oracle["linear.weight"])
