import pytest
import torch

from common.diffusion.config import DenoiserConfig, DiffusionConfig, SamplerConfig
from common.diffusion.sampling import SeededNoise, sample_latents
from common.diffusion.unet import UNetDenoiser

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)
CPU = torch.device("cpu")
SHAPE = (2, 4, 4, 4)
KINDS = {
    "ddpm": ("v", {}),
    "ddim": ("eps", {"eta": 0.5}),
    "euler": ("flow", {}),
    "heun": ("flow", {"guidance_scale": 2.0}),
}


def config(kind: str) -> DiffusionConfig:
    objective, options = KINDS[kind]
    sampler = SamplerConfig(kind=kind, num_steps=4, **options)
    return DiffusionConfig(objective=objective, denoiser=SMALL, sampler=sampler)


@pytest.fixture(scope="module")
def net() -> UNetDenoiser:
    generator = torch.Generator().manual_seed(0)
    net = UNetDenoiser(SMALL, 2, 3, generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net


def drawn(net, kind, seeds, batch_size=4):
    labels = [seed % 3 for seed in seeds]
    batches = list(sample_latents(net, config(kind), SHAPE, labels, seeds, batch_size, CPU))
    return dict(zip(seeds, torch.cat(batches), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_bits_wherever_it_is_drawn(net, kind):
    seeds = [11, 5, 7, 3, 2, 13]
    once = drawn(net, kind, seeds)
    shuffled = drawn(net, kind, [13, 2, 5, 11, 3, 7])
    assert all(torch.equal(once[seed], shuffled[seed]) for seed in seeds)
    assert not torch.allclose(once[11], once[5], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_sampling_equals_uninterrupted_sampling(net, kind):
    seeds = list(range(10))
    whole = drawn(net, kind, seeds)
    for done in (3, 4, 9):  # inside, at and after the border of a batch
        rest = drawn(net, kind, seeds[done:])
        assert all(torch.equal(whole[seed], rest[seed]) for seed in seeds[done:])


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_changes_at_most_the_last_digits(net, kind):
    pairs, threes = drawn(net, kind, range(6), batch_size=2), drawn(net, kind, range(6), batch_size=3)
    for seed in range(6):
        torch.testing.assert_close(pairs[seed], threes[seed], rtol=1e-3, atol=1e-3)


def test_the_network_always_sees_full_batches(net):
    sizes = []

    def counting(z_t, time, labels):
        sizes.append(len(z_t))
        return net(z_t, time, labels)

    results = [len(b) for b in sample_latents(counting, config("euler"), SHAPE, [0] * 5, range(5), 4, CPU)]
    assert results == [4, 1]
    assert set(sizes) == {4}


def test_sampling_is_lazy_draws_nothing_global_and_keeps_no_graph(net):
    before = torch.get_rng_state()
    batches = sample_latents(net, config("ddpm"), SHAPE, None, range(4), 2, CPU)
    first = next(batches)
    assert not first.requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seeds_give_no_batches(net):
    assert list(sample_latents(net, config("heun"), SHAPE, None, [], 4, CPU)) == []


def test_labels_steer_the_result(net):
    zeros = next(iter(sample_latents(net, config("heun"), SHAPE, [0, 0], [1, 2], 2, CPU)))
    ones = next(iter(sample_latents(net, config("heun"), SHAPE, [1, 0], [1, 2], 2, CPU)))
    assert not torch.allclose(zeros[0], ones[0], atol=1e-3)
    assert torch.equal(zeros[1], ones[1])


def test_a_label_too_few_is_refused(net):
    with pytest.raises(ValueError, match="2 labels for 3 seeds"):
        next(sample_latents(net, config("heun"), SHAPE, [0, 1], [1, 2, 3], 2, CPU))


def test_noise_of_a_row_depends_on_its_seed_only():
    alone = SeededNoise([9], SHAPE, CPU)
    among = SeededNoise([1, 9, 2], SHAPE, CPU)
    for _ in range(3):
        assert torch.equal(alone()[0], among()[1])


def test_noise_is_standard_normal_and_fresh_at_each_call():
    source = SeededNoise(range(8), (4, 16, 16, 16), CPU)
    first, second = source(), source()
    both = torch.stack([first.flatten(), second.flatten()]).double()
    torch.testing.assert_close(torch.cov(both), torch.eye(2, dtype=torch.float64), rtol=0, atol=0.015)
    assert both.mean(dim=1).abs().max() < 0.015  # 5 standard errors of 131072 values
