import pytest
import torch

from common.diffusion.config import ConditionConfig, DenoiserConfig, DiffusionConfig
from common.diffusion.denoiser import NULL_LABEL, check_labels, guided
from common.diffusion.objective import make_objective
from common.diffusion.unet import ConvolveThenUpsample, UNetDenoiser, initial_denoiser_state, load_denoiser
from common.errors import ConfigError

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(num_classes: int = 3, channels: int = 2) -> UNetDenoiser:
    """A network without the zero-initialised layers that hide what its inputs do."""
    net, generator = UNetDenoiser(SMALL, channels, num_classes, seeded(0)), seeded(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def batch(num: int, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(num, channels, 4, 4, 4, generator=seeded(2)), torch.linspace(0.1, 0.9, num)


def test_initial_parameters_are_a_function_of_the_generator_only():
    torch.manual_seed(1)
    first = initial_denoiser_state(SMALL, 2, 3, seeded(5))
    torch.manual_seed(2)
    again = initial_denoiser_state(SMALL, 2, 3, seeded(5))
    other = initial_denoiser_state(SMALL, 2, 3, seeded(6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_initialisation_advances_its_generator_and_no_other():
    before, generator = torch.get_rng_state(), seeded(5)
    first = initial_denoiser_state(SMALL, 2, 3, generator)
    second = initial_denoiser_state(SMALL, 2, 3, generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_fresh_network_predicts_zero():
    z_t, time = batch(2)
    fresh = UNetDenoiser(SMALL, 2, 0, seeded(0))
    assert torch.equal(fresh(z_t, time, None), torch.zeros_like(z_t))


def test_saved_and_loaded_network_gives_the_same_bits():
    net, (z_t, time) = awake(), batch(2)
    loaded = load_denoiser(SMALL, 2, 3, net.state_dict())
    labels = torch.tensor([0, 2])
    assert torch.equal(loaded(z_t, time, labels), net(z_t, time, labels))


def test_network_keeps_no_state_between_calls():
    net, (z_t, time) = awake().train(), batch(2)
    labels = torch.tensor([0, 1])
    assert list(net.buffers()) == []
    assert torch.equal(net(z_t, time, labels), net(z_t, time, labels))


def test_time_and_label_change_the_prediction_of_their_row_only():
    net, (z_t, time) = awake(), batch(3)
    labels = torch.tensor([0, 1, 2])
    base = net(z_t, time, labels)
    moved = net(z_t, time + torch.tensor([0.0, 0.05, 0.0]), labels)
    relabelled = net(z_t, time, torch.tensor([0, 0, 2]))
    for changed in (moved, relabelled):
        assert not torch.allclose(changed[1], base[1], atol=1e-4)
        torch.testing.assert_close(changed[[0, 2]], base[[0, 2]])


def test_null_class_is_the_last_embedding_and_the_meaning_of_no_labels():
    net, (z_t, time) = awake(num_classes=3), batch(2)
    nulls = torch.tensor([NULL_LABEL, NULL_LABEL])
    assert torch.equal(net(z_t, time, None), net(z_t, time, nulls))
    before = net(z_t, time, nulls)
    with torch.no_grad():
        net.unet.class_embedding.weight[:3] += 1.0  # the real classes: no effect on the null path
        assert torch.equal(net(z_t, time, nulls), before)
        net.unet.class_embedding.weight[3] += 1.0
        assert not torch.allclose(net(z_t, time, nulls), before, atol=1e-4)


@pytest.mark.parametrize(("dropout", "trained"), [(0.0, [0, 1]), (1.0, [3])])
def test_dropout_decides_which_embedding_rows_receive_gradient(dropout, trained):
    condition = ConditionConfig(kind="class", num_classes=3, dropout=dropout)
    goal = make_objective(DiffusionConfig(condition=condition))
    net, (z0, _) = awake(num_classes=3), batch(4)
    goal.per_example_loss(net, z0, torch.tensor([0, 1, 0, 1]), seeded(0)).sum().backward()
    rows = net.unet.class_embedding.weight.grad.abs().sum(dim=1)
    assert rows.nonzero().flatten().tolist() == trained


def test_empty_batch_never_reaches_the_network():
    net = awake()
    net.unet = None  # calling it would raise
    z0, labels = torch.zeros(0, 2, 4, 4, 4), torch.zeros(0, dtype=torch.long)
    assert net(z0, torch.zeros(0), labels).shape == z0.shape
    loss = make_objective(DiffusionConfig()).per_example_loss(net, z0, labels, seeded(0))
    assert loss.shape == (0,)


def test_upsampling_copies_each_convolved_position_to_a_block_of_eight():
    convolution = torch.nn.Conv3d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 3, 4, 5, generator=seeded(0))
    upsampled = ConvolveThenUpsample(convolution)(x, None)
    copied = convolution(x).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.equal(upsampled, copied)
    replaced = [block.upsampler for block in awake().unet.up_blocks]
    assert [type(up) for up in replaced] == [ConvolveThenUpsample, type(None)]


def test_labels_without_classes_are_refused():
    z_t, time = batch(2)
    with pytest.raises(ConfigError, match="without classes"):
        UNetDenoiser(SMALL, 2, 0, seeded(0))(z_t, time, torch.tensor([0, 1]))


@pytest.mark.parametrize("label", [3, -2, 7])
def test_label_outside_the_classes_is_refused_with_its_value(label):
    with pytest.raises(ConfigError, match=f"label {label} "):
        check_labels(torch.tensor([0, label]), num_classes=3)


def test_labels_of_known_classes_pass():
    check_labels(torch.tensor([NULL_LABEL, 0, 2]), num_classes=3)
    check_labels(torch.zeros(0, dtype=torch.long), num_classes=3)
    check_labels(None, num_classes=0)


def labelled(z_t, time, labels):
    """A denoiser whose conditional output is 10 + label and whose unconditional one is 1."""
    value = torch.where(labels == NULL_LABEL, 1.0, 10.0 + labels)
    return value.reshape(-1, 1) + 0 * z_t


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_extrapolates_from_unconditional_through_conditional(scale):
    labels = torch.tensor([0, 4])
    output = guided(labelled, scale)(torch.zeros(2, 1), torch.ones(2), labels)
    expected = 1 + scale * (10 + labels - 1)
    torch.testing.assert_close(output.flatten(), expected.to(output.dtype))


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 2), (1.0, 2), (3.0, 4)])
def test_guidance_calls_the_network_once(scale, rows):
    calls = []

    def counting(z_t, time, labels):
        calls.append(len(z_t))
        return labelled(z_t, time, labels)

    guided(counting, scale)(torch.zeros(2, 1), torch.ones(2), torch.tensor([0, 1]))
    assert calls == [rows]


def test_guidance_of_the_network_at_one_is_conditional_and_at_zero_unconditional():
    net, (z_t, time) = awake(), batch(2)
    labels = torch.tensor([0, 2])
    assert torch.equal(guided(net, 1.0)(z_t, time, labels), net(z_t, time, labels))
    assert torch.equal(guided(net, 0.0)(z_t, time, labels), net(z_t, time, None))
    near_one = guided(net, 1 + 1e-6)(z_t, time, labels)
    torch.testing.assert_close(near_one, net(z_t, time, labels), rtol=1e-3, atol=1e-4)
