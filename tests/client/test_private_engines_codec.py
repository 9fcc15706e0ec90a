"""Engines on codec and discriminator, with the quantizers that are exact under per-patient clipping."""

import math

import pytest
import torch

from client.private.gradient_engines import hook_gradients, loop_gradients, vmap_gradients
from client.private.private_step import clip_and_sum
from common.codec.codec import Codec
from common.codec.config import (
    CodecConfig,
    DiscriminatorConfig,
    FsqQuantizerConfig,
    GradientQuantizerConfig,
)
from common.codec.discriminators import discriminator_loss, make_discriminators
from common.codec.training import codec_loss

COUNTS = [1, 3, 2]
GRADIENT = GradientQuantizerConfig(num_codes=16, code_dim=3)
FSQ = FsqQuantizerConfig(levels=(5, 4, 3))


def stirred(module):
    """Away from the start, at which most of the residual path has no gradient."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def volumes():
    return torch.rand(sum(COUNTS), 1, 8, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def distance(left, right):
    return math.sqrt(sum(float((left[n] - right[n]).square().sum()) for n in left))


def norm(gradients):
    return math.sqrt(sum(float(t.square().sum()) for t in gradients.values()))


def agree(engine, module, loss, rows):
    oracle = clip_and_sum(loop_gradients(module, loss, rows, COUNTS), 0.5)
    found = clip_and_sum(engine(module, loss, rows, COUNTS), 0.5)
    assert found.keys() == oracle.keys()
    assert norm(oracle) > 0.1
    assert distance(found, oracle) < 1e-3 * norm(oracle)


@pytest.mark.parametrize(
    ("engine", "quantizer"), [(hook_gradients, FSQ), (vmap_gradients, FSQ), (vmap_gradients, GRADIENT)]
)
def test_codec(engine, quantizer):
    config = CodecConfig(channels=8, num_res_blocks=1, quantizer=quantizer)
    codec = stirred(Codec(config, 1, torch.Generator().manual_seed(0)))
    agree(
        engine, codec, lambda module, rows: codec_loss(module, config, rows["volume"]), {"volume": volumes()}
    )


@pytest.mark.parametrize("engine", [hook_gradients, vmap_gradients])
def test_volume_discriminator(engine):
    _, critic = make_discriminators(DiscriminatorConfig(), 1, torch.Generator().manual_seed(0))
    real = torch.rand(sum(COUNTS), 1, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    rows = {"real": real, "fake": real.flip(2) * 0.5}

    def loss(module, rows):
        return discriminator_loss(module(rows["real"])[-1], module(rows["fake"])[-1])

    agree(engine, stirred(critic), loss, rows)
