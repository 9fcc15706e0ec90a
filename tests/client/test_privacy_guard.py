"""The guard passes the project's own networks and refuses every known way to leak past the noise."""

import pytest
import torch
from monai.networks.nets import VQVAE
from torch import nn

from client.private.gradient_engines import hook_gradients, loop_gradients, vmap_gradients
from common.codec.codec import Codec
from common.codec.config import CodecConfig, FsqQuantizerConfig, GradientQuantizerConfig
from common.codec.training import codec_loss
from common.errors import PrivacyError
from common.privacy.guard import refuse_leaks


def volumes(num=3):
    return {"x": torch.rand(num, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))}


def squares(module, rows):
    return module(rows["x"]).square().flatten(1).mean(dim=1)


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), *between, nn.Conv3d(4, 2, 3))


@pytest.mark.parametrize("engine", [loop_gradients, hook_gradients, vmap_gradients])
def test_a_sound_network_passes_and_keeps_its_mode(engine):
    module = network(nn.GroupNorm(2, 4), nn.SiLU()).eval()
    before = {name: p.clone() for name, p in module.state_dict().items()}
    refuse_leaks(module, squares, volumes(), engine)
    assert not module.training
    assert all(torch.equal(before[name], p) for name, p in module.state_dict().items())


@pytest.mark.parametrize(
    ("quantizer", "engine"),
    [
        (FsqQuantizerConfig(levels=(5, 4, 3)), hook_gradients),
        (GradientQuantizerConfig(num_codes=16, code_dim=3), vmap_gradients),
    ],
)
def test_the_codecs_for_private_training_pass(quantizer, engine):
    config = CodecConfig(channels=8, num_res_blocks=1, quantizer=quantizer)
    codec = Codec(config, 1, torch.Generator().manual_seed(0))
    refuse_leaks(codec, lambda module, rows: codec_loss(module, config, rows["x"]), volumes(), engine)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_refused_also_without_parameters(affine):
    with pytest.raises(PrivacyError, match="1 is a BatchNorm3d"):
        refuse_leaks(network(nn.BatchNorm3d(4, affine=affine)), squares, volumes(), loop_gradients)


def test_instance_norm_with_running_statistics_is_refused():
    module = network(nn.InstanceNorm3d(4, track_running_stats=True))
    with pytest.raises(PrivacyError, match="InstanceNorm3d"):
        refuse_leaks(module, squares, volumes(), loop_gradients)


def test_an_ema_codebook_is_refused_though_opacus_accepts_it():
    from opacus.validators import ModuleValidator

    torch.manual_seed(0)
    module = VQVAE(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(4,),
        num_res_layers=1,
        num_res_channels=(4,),
        downsample_parameters=((2, 4, 1, 1),),
        upsample_parameters=((2, 4, 1, 1, 0),),
        num_embeddings=8,
        embedding_dim=2,
    )
    assert ModuleValidator.validate(module, strict=False) == []

    def loss(module, rows):
        return (module(rows["x"])[0] - rows["x"]).square().flatten(1).mean(dim=1)

    with pytest.raises(PrivacyError, match=r"quantizer.* changes in a call"):
        refuse_leaks(module, loss, volumes(), loop_gradients)


def test_state_outside_the_state_dict_is_seen_too():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(()), persistent=False)
            self.layer = nn.Conv3d(1, 1, 3)

        def forward(self, x):
            self.mean += x.mean()
            return self.layer(x)

    with pytest.raises(PrivacyError, match="mean changes"):
        refuse_leaks(Remembering(), squares, volumes(), loop_gradients)


class RemembersWithGradients(nn.Conv3d):
    """Keeps what it sees, but not while nobody asks for gradients."""

    def __init__(self):
        super().__init__(1, 1, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if torch.is_grad_enabled():
            self.seen += x.detach().mean()
        return super().forward(x)


class RemembersGradients(RemembersWithGradients):
    """Keeps a gradient, in the backward pass."""

    def forward(self, x):
        found = nn.Conv3d.forward(self, x)
        if found.requires_grad:
            found.register_hook(lambda gradient: self.seen.add_(gradient.detach().abs().sum()) and None)
        return found


class RemembersInAnAttribute(nn.Conv3d):
    """Keeps what it sees where no state names it."""

    def __init__(self):
        super().__init__(1, 1, 3)
        self.seen = torch.zeros(())

    def forward(self, x):
        self.seen = 0.9 * self.seen + 0.1 * x.detach().mean()
        return super().forward(x)


@pytest.mark.parametrize("kind", [RemembersWithGradients, RemembersGradients, RemembersInAnAttribute])
def test_a_memory_in_an_odd_place_is_seen(kind):
    with pytest.raises(PrivacyError, match="seen changes"):
        refuse_leaks(kind(), squares, volumes(), loop_gradients)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda module, rows: squares(module, rows) / squares(module, rows).sum(),
        lambda module, rows: squares(module, {"x": rows["x"] - rows["x"].mean(dim=0)}),
    ],
)
@pytest.mark.parametrize("engine", [loop_gradients, hook_gradients])
def test_a_loss_over_the_batch_is_refused(mixing, engine):
    with pytest.raises(PrivacyError, match="who else"):
        refuse_leaks(network(), mixing, volumes(), engine)


def test_a_mean_instead_of_losses_is_refused():
    with pytest.raises(PrivacyError, match="shape"):
        refuse_leaks(network(), lambda m, rows: squares(m, rows).mean(), volumes(), loop_gradients)


def test_a_network_without_trained_parameters_is_refused():
    with pytest.raises(PrivacyError, match="no parameter"):
        refuse_leaks(network().requires_grad_(False), squares, volumes(), lambda *_: {})


def test_an_engine_that_misses_a_parameter_is_refused():
    def forgetful(*args):
        found = loop_gradients(*args)
        found.pop("0.bias")
        return found

    with pytest.raises(PrivacyError, match=r"0\.bias"):
        refuse_leaks(network(), squares, volumes(), forgetful)


def test_mixing_that_hides_behind_a_layer_that_starts_at_zero_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry, self.late = nn.Conv3d(1, 2, 3), nn.Conv3d(2, 2, 1)
            nn.init.zeros_(self.late.weight)
            nn.init.zeros_(self.late.bias)

        def forward(self, x):
            y = self.entry(x)
            return y + self.late(y - y.mean(dim=0))

    with pytest.raises(PrivacyError, match="who else"):
        refuse_leaks(Mixing(), squares, volumes(), hook_gradients)


class Unseen(nn.Module):
    """Uses a layer's weight without calling the layer, so that no hook fires."""

    def __init__(self, also_called):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 3)
        self.also_called = also_called

    def forward(self, x):
        y = nn.functional.conv3d(x, self.layer.weight)
        return y + self.layer(x) if self.also_called else y


@pytest.mark.parametrize("also_called", [False, True])
def test_a_weight_that_hooks_do_not_see_is_refused_and_fine_for_others(also_called):
    with pytest.raises(PrivacyError, match=r"layer\.weight"):
        refuse_leaks(Unseen(also_called), squares, volumes(), hook_gradients)
    refuse_leaks(Unseen(also_called), squares, volumes(), vmap_gradients)


def test_a_padding_that_the_sampler_does_not_know_is_refused():
    torch.manual_seed(0)
    module = nn.Conv3d(1, 2, 3, padding=1, padding_mode="circular")
    with pytest.raises(PrivacyError, match="circular"):
        refuse_leaks(module, squares, volumes(), hook_gradients)
