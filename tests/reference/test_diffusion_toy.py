"""Training and sampling together: a small network learns four labelled blobs in the plane."""

import math

import pytest
import torch
from torch import nn

from common.diffusion.config import ConditionConfig, DiffusionConfig, SamplerConfig
from common.diffusion.denoiser import NULL_LABEL
from common.diffusion.objective import make_objective
from common.diffusion.sampling import sample_latents

CENTRES = torch.tensor([[1.2, 0.0], [0.0, 1.2], [-1.2, 0.0], [0.0, -1.2]])
SPREAD = 0.15
SAMPLERS = {"eps": "ddim", "v": "ddpm", "flow": "heun"}


class PlaneDenoiser(nn.Module):
    """An MLP that fits the contract in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layers = nn.Sequential(
            nn.Linear(2 + 9 + 8, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def forward(self, z_t, time, labels):
        t = time.reshape(-1, 1) * math.pi * torch.tensor([0.5, 1, 2, 4])
        classes = labels.masked_fill(labels == NULL_LABEL, 4)
        return self.layers(torch.cat([z_t, time[:, None], t.sin(), t.cos(), self.embedding(classes)], dim=1))


def trained(config: DiffusionConfig) -> PlaneDenoiser:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = PlaneDenoiser()
    objective, optimizer = make_objective(config), torch.optim.Adam(net.parameters(), lr=8e-3)
    for step in range(700):
        optimizer.param_groups[0]["lr"] = 8e-3 * (1 - step / 700)
        labels = torch.randint(4, (128,), generator=generator)
        z0 = CENTRES[labels] + SPREAD * torch.randn(128, 2, generator=generator)
        loss = objective.per_example_loss(net, z0, labels, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("objective", ["eps", "v", "flow"])
def test_every_objective_learns_four_labelled_blobs(objective):
    sampler = SamplerConfig(kind=SAMPLERS[objective], num_steps=40)
    condition = ConditionConfig(kind="class", num_classes=4, dropout=0.5)
    config = DiffusionConfig(objective=objective, condition=condition, sampler=sampler)
    net = trained(config)

    def drawn(labels):
        batches = sample_latents(net, config, (2,), labels, range(400), 200, torch.device("cpu"))
        return torch.cat(list(batches))

    conditional = drawn([i % 4 for i in range(400)])
    for label, centre in enumerate(CENTRES):
        own = conditional[label::4]
        assert (own.mean(dim=0) - centre).norm() < 0.1
        assert own.std(dim=0).mean().item() == pytest.approx(SPREAD, rel=0.35)

    unconditional = drawn([NULL_LABEL] * 400)
    distance = torch.cdist(unconditional, CENTRES)
    assert (
        distance.min(dim=1).values < 4 * SPREAD
    ).double().mean() > 0.7  # 0.35 of standard normal noise lies there
    counts = torch.bincount(distance.argmin(dim=1), minlength=4)
    assert counts.min() >= 60  # of 100 expected: no blob is missed
