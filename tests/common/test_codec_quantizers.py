"""The three quantizers: oracles, purity, and what must not happen to a codebook."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec.codebook import COUNTS, DEAD_SHARE, SUMS, split_dead_codes, split_dead_codes_of
from common.codec.codec import Codec
from common.codec.config import (
    CodecConfig,
    EmaQuantizerConfig,
    FsqQuantizerConfig,
    GradientQuantizerConfig,
)
from common.codec.ema_quantizer import EmaQuantizer
from common.codec.nearest import nearest_codes, to_latent, to_vectors
from common.codec.training import CodecTraining, initial_codec_state

QUANTIZERS = {
    "ema": EmaQuantizerConfig(num_codes=16, code_dim=3),
    "gradient": GradientQuantizerConfig(num_codes=16, code_dim=3),
    "fsq": FsqQuantizerConfig(levels=(5, 4, 3)),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, **changes):
    config = CodecConfig(channels=8, num_res_blocks=1, quantizer=QUANTIZERS[kind], **changes)
    return config, Codec(config, 1, seeded())


def volumes(num=3, seed=1):
    return torch.rand(num, 1, 8, 8, 8, generator=seeded(seed)) * 2 - 1


@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_chunked_search_equals_brute_force(positions, codes, dim, seed):
    vectors = torch.randn(positions, dim, generator=seeded(seed))
    table = torch.randn(codes, dim, generator=seeded(seed + 1))
    brute = torch.cdist(vectors.double(), table.double()).argmin(dim=1)
    found = nearest_codes(vectors, table)
    distance = (vectors - table[found]).norm(dim=1) - (vectors - table[brute]).norm(dim=1)
    assert float(distance.abs().max()) < 1e-4  # ties in float32 may fall either way


def test_the_search_never_holds_all_distances(monkeypatch):
    seen = []
    real = torch.addmm

    def spy(*args):
        result = real(*args)
        seen.append(result.numel())
        return result

    monkeypatch.setattr(torch, "addmm", spy)
    nearest_codes(torch.randn(5000, 2), torch.randn(1000, 2))
    assert len(seen) > 1
    assert max(seen) <= 1 << 19


def test_vectors_and_latent_are_inverse():
    latent = torch.randn(2, 3, 4, 5, 6, generator=seeded())
    assert torch.equal(to_latent(to_vectors(latent), latent), latent)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_encode_and_decode_are_pure_in_train_mode_too(kind):
    _, codec = make(kind)
    codec.train()
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    first, second = codec.encode(volumes()), codec.encode(volumes())
    assert torch.equal(first, second)
    assert torch.equal(codec.decode(first, snap=True), codec.decode(first, snap=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in codec.state_dict().items())


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_position_gets_its_nearest_code_and_the_latents_gradient(kind):
    _, codec = make(kind)
    latent = torch.randn(2, 3, 4, 4, 4, generator=seeded(), requires_grad=True)
    result = codec.quantize(latent)
    again = codec.quantize(result.quantized.detach())
    assert torch.equal(again.indices, result.indices)  # a code is its own nearest code
    torch.testing.assert_close(again.quantized, result.quantized)
    weights = torch.randn(latent.shape, generator=seeded(5))
    (result.quantized * weights).sum().backward()
    torch.testing.assert_close(latent.grad, weights)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_an_examples_loss_and_codes_do_not_see_the_other_examples(kind):
    _, codec = make(kind)
    latent = torch.randn(3, 3, 4, 4, 4, generator=seeded())
    changed = latent.clone()
    changed[1:] = 7.0
    first, second = codec.quantize(latent), codec.quantize(changed)
    assert torch.equal(first.loss[0], second.loss[0])
    assert torch.equal(first.indices[0], second.indices[0])
    assert not torch.equal(first.loss[1], second.loss[1])


def test_ema_follows_its_recursion_written_as_a_loop():
    quantizer = EmaQuantizer(
        EmaQuantizerConfig(num_codes=4, code_dim=2, decay=0.9), 0.25, torch.ones(2), seeded()
    )
    counts, sums = torch.ones(4).double(), quantizer.sums.double().clone()
    for seed in range(3):
        latent = torch.randn(2, 2, 3, 3, 3, generator=seeded(seed))
        indices = quantizer(latent).indices
        n, s = torch.zeros(4).double(), torch.zeros(4, 2).double()
        for b, x, y, z in torch.cartesian_prod(*(torch.arange(size) for size in (2, 3, 3, 3))).tolist():
            n[indices[b, x, y, z]] += 1
            s[indices[b, x, y, z]] += latent[b, :, x, y, z]
        counts = 0.9 * counts + 0.1 * n / n.mean()
        sums = 0.9 * sums + 0.1 * s / n.mean()
        quantizer.update(latent, indices)
    torch.testing.assert_close(quantizer.counts.double(), counts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.sums.double(), sums, rtol=1e-5, atol=1e-6)
    assert float(quantizer.counts.mean()) == pytest.approx(1.0, abs=1e-5)


def test_no_code_is_ever_a_copy_of_a_latent():
    config, codec = make("ema")
    training = CodecTraining(config, 1, initial_codec_state(config, 1, seeded()), torch.device("cpu"))
    for step in range(5):
        training.step(volumes(), step, 1e-3, seeded(step))
    state = split_dead_codes_of(training.state())
    codec.load_state_dict({name.removeprefix("codec."): tensor for name, tensor in state.items()})
    latents = to_vectors(codec.encode(volumes()))
    assert float(torch.cdist(codec.quantizer.codes, latents).min().detach()) > 1e-6


counts_lists = st.lists(st.floats(0, 10), min_size=2, max_size=20)


@given(counts_lists, st.integers(0, 99))
def test_splitting_conserves_total_count_and_total_sum(counts, seed):
    number = torch.tensor(counts, dtype=torch.float64) + 1e-6
    sums = torch.randn(len(counts), 3, generator=seeded(seed)).double() * number[:, None]
    new_counts, new_sums = split_dead_codes(number, sums)
    torch.testing.assert_close(new_counts.sum(), number.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(new_sums.sum(dim=0), sums.sum(dim=0), rtol=1e-9, atol=1e-9)


@given(counts_lists, st.integers(-8, 8))
def test_splitting_commutes_with_scaling_the_sums(counts, exponent):
    number = torch.tensor(counts, dtype=torch.float64) + 1e-6
    sums = torch.randn(len(counts), 2, generator=seeded()).double() * number[:, None]
    factor = 2.0**exponent
    plain, scaled = split_dead_codes(number, sums), split_dead_codes(number * factor, sums * factor)
    assert all(torch.equal(a * factor, b) for a, b in zip(plain, scaled, strict=True))


def test_dead_codes_take_half_of_the_busiest():
    counts = torch.tensor([4.0, 0.0, 1.0, 3.0])
    sums = torch.tensor([[4.0], [0.0], [-1.0], [6.0]])
    new_counts, new_sums = split_dead_codes(counts, sums)
    assert new_counts.tolist() == [2.0, 2.0, 1.0, 3.0]
    codes = new_sums / new_counts[:, None]
    assert codes[0] != codes[1]
    assert float((codes[0] + codes[1]) / 2) == pytest.approx(1.0)
    assert float(new_counts.min()) >= DEAD_SHARE * float(new_counts.mean())


def test_without_dead_codes_nothing_changes_and_without_codebook_neither():
    counts, sums = torch.ones(5), torch.randn(5, 2, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(split_dead_codes(counts, sums), (counts, sums), strict=True))
    assert split_dead_codes_of({"codec.w": counts}).keys() == {"codec.w"}


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_the_codebook_survives_save_load_and_a_step_with_learning_rate_0(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    config, _ = make(kind)
    state = initial_codec_state(config, 1, seeded())
    training = CodecTraining(config, 1, state, torch.device("cpu"))
    training.step(volumes(), 0, 1e-3, seeded())
    save_file(training.state(), tmp_path / "state.safetensors")
    resumed = CodecTraining(config, 1, load_file(tmp_path / "state.safetensors"), torch.device("cpu"))
    before = resumed.codec.quantizer.codes.detach().clone()
    codec_before = {n: t.clone() for n, t in resumed.state().items() if n not in {COUNTS, SUMS}}
    assert torch.equal(before, training.codec.quantizer.codes.detach())
    resumed.step(volumes(), 1, 0.0, seeded())
    after = resumed.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in codec_before.items())
    if kind == "gradient":
        assert torch.equal(before, resumed.codec.quantizer.codes.detach())


def test_fsq_levels_are_the_closed_form_and_out_of_range_takes_the_outermost():
    codec = Codec(CodecConfig(channels=8, quantizer=FsqQuantizerConfig(levels=(4, 2))), 1, seeded())
    latent = torch.tensor([[-99.0, 99.0], [0.1, -0.1], [1.2, 1.0]]).reshape(3, 2, 1, 1, 1)
    result = codec.quantize(latent)
    first, second = 2.2, 2.2 * 0.35 / 1.3  # R: 2.2 deviations of a block's mean, and of a detail
    steps = torch.tensor([[-3 / 4, 1 / 2], [1 / 4, -1 / 2], [3 / 4, 1 / 2]])
    expected = steps * torch.tensor([first, second])
    torch.testing.assert_close(result.quantized.reshape(3, 2), expected)
    assert result.indices.flatten().tolist() == [0 + 4 * 1, 2 + 4 * 0, 3 + 4 * 1]
    in_deviations = (latent.reshape(3, 2) - expected) / torch.tensor([1, 0.35 / 1.3])
    torch.testing.assert_close(result.loss, 0.25 * in_deviations.square().mean(dim=1))


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_moments_follow_from_the_codebook_or_are_constants(kind):
    _, codec = make(kind)
    mean, std = codec.codebook_moments()
    if kind == "fsq":
        assert mean.tolist() == [0, 0, 0]
        assert std.tolist() == pytest.approx([1, 0.35 / 1.3, 0.35 / 1.3])
        return
    codes = codec.quantizer.codes.detach().double()
    torch.testing.assert_close(mean, codes.mean(dim=0))
    torch.testing.assert_close(std, codes.std(dim=0, correction=0))
