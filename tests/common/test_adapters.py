import pytest
import torch

from common.diffusion.adapters import adapt
from common.diffusion.config import DenoiserConfig, TrainableConfig
from common.diffusion.unet import UNetDenoiser, initial_denoiser_state, load_denoiser
from common.errors import ConfigError
from common.frozen import parse

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)
KINDS = [
    TrainableConfig(kind="lora", rank=2),
    TrainableConfig(kind="lora", rank=1, where="attentions"),
    TrainableConfig(kind="film"),
    TrainableConfig(kind="norm"),
    TrainableConfig(kind="bias"),
    TrainableConfig(kind="all"),
]


def pretrained() -> UNetDenoiser:
    generator = torch.Generator().manual_seed(1)
    state = initial_denoiser_state(SMALL, 2, 0, torch.Generator().manual_seed(0))
    return load_denoiser(
        SMALL, 2, 0, {n: p + 0.05 * torch.randn(p.shape, generator=generator) for n, p in state.items()}
    )


def adapted(config, seed=4):
    denoiser = pretrained()
    return denoiser, adapt(denoiser, config, torch.Generator().manual_seed(seed))


def inputs():
    return torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0.2, 0.7])


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}{c.where}")
def test_an_adapted_network_starts_as_the_pretrained_one(config):
    denoiser, _ = adapted(config)
    z, time = inputs()
    assert torch.equal(denoiser(z, time, None), pretrained()(z, time, None))


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}{c.where}")
def test_only_the_named_parameters_are_trained_and_a_step_changes_the_output(config):
    denoiser, trained = adapted(config)
    assert set(trained) == {n for n, p in denoiser.named_parameters() if p.requires_grad}
    z, time = inputs()
    before = denoiser(z, time, None)
    optimizer = torch.optim.SGD([p for p in denoiser.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # of a low-rank pair, the factor that starts at zero moves first
        optimizer.zero_grad()
        (denoiser(z, time, None) - 1).square().mean().backward()
        optimizer.step()
    assert (denoiser(z, time, None) - before).abs().max() > 1e-3
    frozen = pretrained().state_dict()
    for name, parameter in denoiser.named_parameters():
        original = name.replace(".base.", ".")
        if name not in trained:
            assert torch.equal(parameter, frozen[original]), name


def test_low_rank_additions_have_the_size_that_rank_and_layers_say():
    denoiser, trained = adapted(TrainableConfig(kind="lora", rank=3, where="middle_block.attention"))
    sizes = {n.split("attention.")[1]: tuple(denoiser.get_parameter(n).shape) for n in trained}
    for layer in ("to_q", "to_k", "to_v", "out_proj"):
        assert sizes.pop(f"attn.{layer}.down.weight") == (3, 16)
        assert sizes.pop(f"attn.{layer}.up.weight") == (16, 3)
    assert sizes == {}


def test_the_adapted_weight_of_a_convolution_is_base_plus_the_product():
    """conv(x, W + B A) with B A contracted over the rank: the definition of a low-rank change."""
    denoiser, _ = adapted(TrainableConfig(kind="lora", rank=2))
    layer = denoiser.unet.middle_block.resnet_1.conv1.conv
    torch.nn.init.normal_(layer.up.weight, generator=torch.Generator().manual_seed(5))
    x = torch.randn(2, 16, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    change = torch.einsum("or,rixyz->oixyz", layer.up.weight[:, :, 0, 0, 0], layer.down.weight)
    expected = torch.nn.functional.conv3d(x, layer.base.weight + change, layer.base.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_scale_and_shift_multiply_and_add_per_channel():
    denoiser, _ = adapted(TrainableConfig(kind="film"))
    layer = denoiser.unet.middle_block.resnet_1.conv1.conv
    with torch.no_grad():
        layer.change.weight.fill_(0.5)
        layer.change.bias.fill_(2.0)
    x = torch.randn(2, 16, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(layer(x), 1.5 * layer.base(x) + 2.0)


def test_additions_are_a_function_of_their_generator():
    first, names = adapted(TrainableConfig(kind="lora", rank=2), seed=1)
    again, _ = adapted(TrainableConfig(kind="lora", rank=2), seed=1)
    other, _ = adapted(TrainableConfig(kind="lora", rank=2), seed=2)
    down = [name for name in names if ".down.weight" in name]
    assert all(torch.equal(first.get_parameter(n), again.get_parameter(n)) for n in names)
    assert not any(torch.equal(first.get_parameter(n), other.get_parameter(n)) for n in down)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kind": "lora"}, "rank belongs"),
        ({"kind": "bias", "rank": 2}, "rank belongs"),
        ({"kind": "norm", "where": "middle"}, "where belongs"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(content, said):
    with pytest.raises(ConfigError, match=said):
        parse(TrainableConfig, content, "study.yaml")


def test_a_name_that_no_layer_has_is_refused():
    with pytest.raises(ConfigError, match="'nowhere'"):
        adapted(TrainableConfig(kind="film", where="nowhere"))
