"""Seeds of synthetic volumes: distinct within a set, also in the bits that PyTorch's generator uses."""

import torch

from server.synthesis import volume_seed


def test_no_two_volumes_of_a_large_set_share_a_seed():
    seeds = {volume_seed(7, index) for index in range(100_000)}
    assert len(seeds) == 100_000
    assert max(seeds) < 2**32


def test_neighbouring_seeds_give_unrelated_noise():
    drawn = [
        torch.randn(4096, generator=torch.Generator().manual_seed(volume_seed(0, index)))
        for index in range(64)
    ]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(64)
    assert float(correlations.abs().max()) < 5 / 4096**0.5


def test_another_set_starts_elsewhere():
    first, other = ({volume_seed(seed, index) for index in range(10_000)} for seed in (1, 2))
    assert not first & other
