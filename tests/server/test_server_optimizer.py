"""The server's optimizers against their formulas, written out as plain loops."""

import math

import torch

from common.federation.config import FedAdamConfig, FedAvgConfig, FedAvgMConfig, FedProxConfig
from server.server_optimizer import ServerOptimizer

START = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])}
MEANS = [
    {"w": torch.tensor([1.5, -2.5], dtype=torch.float64), "b": torch.tensor([[0.25]], dtype=torch.float64)},
    {"w": torch.tensor([0.5, -1.0], dtype=torch.float64), "b": torch.tensor([[0.75]], dtype=torch.float64)},
    {"w": torch.tensor([2.0, 0.0], dtype=torch.float64), "b": torch.tensor([[0.0]], dtype=torch.float64)},
]


def run(config):
    current, moments, trace = dict(START), {}, []
    for index, mean in enumerate(MEANS, start=1):
        current, moments = ServerOptimizer(config).step(current, mean, moments, index)
        trace.append(current)
    return trace


def test_fedavg_and_fedprox_take_the_mean_bit_for_bit():
    for config in (FedAvgConfig(), FedProxConfig(proximal_mu=0.1)):
        for got, mean in zip(run(config), MEANS, strict=True):
            assert all(torch.equal(got[name], mean[name]) for name in mean)


def test_momentum_follows_its_recursion_over_rounds():
    config = FedAvgMConfig(learning_rate=0.5, momentum=0.9)
    trace = run(config)
    for name, start in START.items():
        current, velocity = start.double(), None
        for mean, got in zip(MEANS, trace, strict=True):
            gradient = current - mean[name]
            velocity = gradient if velocity is None else 0.9 * velocity + gradient
            current = current - 0.5 * velocity
            torch.testing.assert_close(got[name], current, rtol=1e-12, atol=1e-12)


def test_momentum_zero_and_rate_one_is_fedavg():
    for got, mean in zip(run(FedAvgMConfig(learning_rate=1.0, momentum=0.0)), MEANS, strict=True):
        for name in mean:
            torch.testing.assert_close(got[name], mean[name], rtol=0, atol=1e-15)


def test_adam_follows_its_recursion_over_rounds():
    config = FedAdamConfig(learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    trace = run(config)
    for name, start in START.items():
        current = start.double()
        m, v = torch.zeros_like(current), torch.zeros_like(current)
        for index, (mean, got) in enumerate(zip(MEANS, trace, strict=True), start=1):
            delta = mean[name] - current
            m = 0.9 * m + 0.1 * delta
            v = 0.99 * v + 0.01 * delta**2
            rate = 0.1 * math.sqrt(1 - 0.99 ** (index + 1)) / (1 - 0.9 ** (index + 1))
            current = current + rate * m / (v.sqrt() + 1e-3)
            torch.testing.assert_close(got[name], current, rtol=1e-12, atol=1e-12)


def test_moments_are_passed_on_so_that_a_resumed_run_goes_on_alike():
    config = FedAdamConfig()
    whole = run(config)[-1]
    current, moments = dict(START), {}
    for index, mean in enumerate(MEANS, start=1):
        # What a checkpoint does: tensors out, tensors in.
        current = {name: tensor.clone() for name, tensor in current.items()}
        moments = {name: tensor.clone() for name, tensor in moments.items()}
        current, moments = ServerOptimizer(config).step(current, mean, moments, index)
    assert all(torch.equal(current[name], whole[name]) for name in whole)
