"""Networks, discriminators and the training step of the codec."""

import pytest
import torch

from common.codec.codec import Codec
from common.codec.config import CodecConfig, DiscriminatorConfig, FsqQuantizerConfig
from common.codec.discriminators import (
    PatchDiscriminator,
    discriminator_loss,
    feature_distance,
    generator_loss,
    take_slices,
)
from common.codec.losses import absolute_error, spectral_error, squared_error
from common.codec.rearrange import depth_to_space, space_to_depth
from common.codec.training import CodecTraining, initial_codec_state
from common.codec.transform import lowest_frequencies

DEVICE = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def volumes(num=2, channels=1, shape=(8, 8, 8), seed=1):
    return torch.rand(num, channels, *shape, generator=seeded(seed)) * 2 - 1


@pytest.mark.parametrize("factors", [(2, 2, 2), (4, 4, 1), (1, 2, 4)])
def test_space_to_depth_moves_each_block_to_channels_and_back(factors):
    volume = volumes(channels=2)
    blocks = space_to_depth(volume, factors)
    assert torch.equal(depth_to_space(blocks, factors), volume)
    a, b, c = factors
    block = volume[1, 1, a : 2 * a, :b, c : 2 * c].flatten()
    assert torch.equal(blocks[1, a * b * c : 2 * a * b * c, 1, 0, 1], block)


@pytest.mark.parametrize(("channels", "factors"), [(1, (2, 2, 2)), (3, (4, 4, 1))])
def test_the_transform_is_orthonormal_and_starts_with_the_mean(channels, factors):
    size = channels * factors[0] * factors[1] * factors[2]
    transform = lowest_frequencies(channels, factors, size)
    torch.testing.assert_close(transform.rows @ transform.rows.T, torch.eye(size), rtol=0, atol=1e-5)
    torch.testing.assert_close(transform.rows[0], torch.full((size,), size**-0.5))
    assert transform.deviations[0] == 1
    assert bool((transform.deviations > 0).all())


def test_an_error_of_a_fresh_codecs_latent_is_as_large_a_volume_error_in_every_channel():
    codec = Codec(CodecConfig(channels=8, num_res_blocks=1), 1, seeded())
    latent = torch.zeros(1, 4, 4, 4, 4)
    plain = codec.decode(latent, snap=False)
    errors = []
    for channel in range(4):
        moved = latent.clone()
        moved[0, channel, 1, 2, 3] = 0.1
        errors.append((codec.decode(moved, snap=False) - plain).norm())
    torch.testing.assert_close(torch.stack(errors), errors[0].expand(4))


def test_a_fresh_codec_with_as_many_channels_as_voxels_is_the_identity():
    config = CodecConfig(channels=8, num_res_blocks=1, quantizer=FsqQuantizerConfig(levels=(2,) * 8))
    codec = Codec(config, 1, seeded())
    volume = volumes()
    torch.testing.assert_close(codec.decode(codec.encode(volume), snap=False), volume, rtol=0, atol=1e-5)


def test_the_codec_is_a_pure_function_of_its_generator_and_leaves_the_global_one():
    config = CodecConfig(channels=8)
    before = torch.get_rng_state()
    first, second = (Codec(config, 1, seeded(4)).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = Codec(config, 1, seeded(5)).state_dict()
    assert not torch.equal(first["encoder.entry.weight"], other["encoder.entry.weight"])


def test_an_examples_reconstruction_does_not_see_the_others():
    codec = Codec(CodecConfig(channels=8, num_res_blocks=2), 1, seeded())
    with torch.no_grad():  # zero-initialised paths would hide a dependence
        for parameter in codec.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(3)) * 0.05)
    volume = volumes(3)
    changed = volume.clone()
    changed[1:] *= -1
    torch.testing.assert_close(codec.reconstruct(volume)[0], codec.reconstruct(changed)[0], rtol=0, atol=1e-5)


def test_losses_are_their_formulas_per_example():
    first, second = volumes(seed=1), volumes(seed=2)
    for loss, formula in (
        (absolute_error, lambda a, b: (a - b).abs().mean()),
        (squared_error, lambda a, b: ((a - b) ** 2).mean()),
    ):
        expected = torch.stack([formula(a, b) for a, b in zip(first, second, strict=True)])
        torch.testing.assert_close(loss(first, second), expected)
    assert spectral_error(first, first).tolist() == [0.0, 0.0]


def test_the_spectral_term_sees_blur_that_shifts_do_not_explain():
    sharp = volumes()
    shifted = sharp.roll(1, dims=2)
    blurred = (sharp + shifted) / 2
    assert float(spectral_error(shifted, sharp).max()) < 1e-5
    assert float(spectral_error(blurred, sharp).min()) > 0.05


def test_hinge_and_feature_losses_by_hand():
    real, fake = torch.tensor([[2.0, 0.5], [0.0, -1.0]]), torch.tensor([[-2.0, 0.0], [1.0, -1.0]])
    # relu(1 - real) = [[0, .5], [1, 2]]; relu(1 + fake) = [[0, 1], [2, 0]]
    torch.testing.assert_close(discriminator_loss(real, fake), torch.tensor([0.375, 1.25]))
    torch.testing.assert_close(generator_loss(fake), torch.tensor([1.0, 0.0]))
    layers_real = [torch.zeros(2, 3), torch.ones(2, 2), torch.full((2, 1), 9.0)]
    layers_fake = [torch.full((2, 3), 2.0), torch.ones(2, 2), torch.zeros(2, 1)]
    torch.testing.assert_close(feature_distance(layers_real, layers_fake), torch.tensor([1.0, 1.0]))


def test_slices_are_those_of_the_volume():
    volume = volumes(num=2, shape=(3, 4, 5))
    positions = torch.tensor([2, 0])
    assert torch.equal(take_slices(volume, 0, positions)[0], volume[0, :, 2])
    assert torch.equal(take_slices(volume, 1, positions)[1], volume[1, :, :, 0])
    assert torch.equal(take_slices(volume, 2, positions)[0], volume[0, :, :, :, 2])


@pytest.mark.parametrize("strides", [(2, 2), (2, 2, 2), (2, 2, 1)])
def test_a_discriminators_score_does_not_see_the_other_examples(strides):
    critic = PatchDiscriminator(1, 8, strides, 2)
    images = torch.randn(3, 1, *(16,) * len(strides), generator=seeded())
    changed = images.clone()
    changed[1:] = 5.0
    torch.testing.assert_close(critic(images)[-1][0], critic(changed)[-1][0])
    assert not list(critic.buffers())


def adversarial(start_step):
    return CodecConfig(
        channels=8,
        num_res_blocks=0,
        discriminator=DiscriminatorConfig(start_step=start_step, channels=8, num_layers=1),
    )


def test_the_adversarial_part_starts_at_its_generator_batch_and_not_before():
    config = adversarial(start_step=2)
    start = initial_codec_state(config, 1, seeded())
    training = CodecTraining(config, 1, start, DEVICE)
    critics = [name for name in start if name.startswith("volume_discriminator.")]
    for step in range(2):
        assert "adversarial" not in training.step(volumes(), step, 1e-3, seeded())
    assert all(torch.equal(training.state()[name], start[name]) for name in critics)
    assert {"adversarial", "feature_matching", "discriminator"} <= training.step(
        volumes(), 2, 1e-3, seeded()
    ).keys()
    assert not all(torch.equal(training.state()[name], start[name]) for name in critics)


def test_a_step_is_a_function_of_state_batch_and_generator():
    config = adversarial(start_step=0)
    states = []
    for _ in range(2):
        training = CodecTraining(config, 1, initial_codec_state(config, 1, seeded()), DEVICE)
        for step in range(3):
            training.step(volumes(), step, 1e-3, seeded(step))
        states.append(training.state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_lowers_the_error_and_the_adversarial_gradient_does_not_reach_the_critics():
    config = adversarial(start_step=100)
    training = CodecTraining(config, 1, initial_codec_state(config, 1, seeded()), DEVICE)
    losses = [training.step(volumes(4), step, 4e-3, seeded(step))["mse"] for step in range(40)]
    assert losses[-1] < 0.7 * losses[0]
