import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion.latent_scale import LatentScale
from common.errors import ArtifactError

CHANNEL = st.tuples(st.floats(-100, 100), st.floats(1e-3, 100))


@settings(deadline=None, derandomize=True)
@given(channels=st.lists(CHANNEL, min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_denormalize_inverts_normalize_and_the_other_way_round(channels, seed):
    shift, scale = zip(*channels, strict=True)
    affine = LatentScale(shift, scale)
    latent = torch.randn(2, len(channels), 2, 3, 1, generator=torch.Generator().manual_seed(seed)).double()
    torch.testing.assert_close(affine.denormalize(affine.normalize(latent)), latent, rtol=0, atol=1e-9)
    torch.testing.assert_close(affine.normalize(affine.denormalize(latent)), latent, rtol=0, atol=1e-9)


def test_latents_with_the_given_moments_have_mean_zero_and_variance_one_in_every_channel():
    mean, std = torch.tensor([3.0, -1.0]), torch.tensor([0.2, 7.0])
    noise = torch.randn(4, 2, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    latent = noise * std.reshape(1, 2, 1, 1, 1) + mean.reshape(1, 2, 1, 1, 1)
    normalized = LatentScale.from_moments(mean, std).normalize(latent)
    assert normalized.mean(dim=(0, 2, 3, 4)).abs().max() < 0.03  # 4 standard errors
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3, 4)), torch.ones(2), rtol=0.03, atol=0)


def test_identity_changes_no_bit():
    latent = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LatentScale.identity(3).normalize(latent), latent)
    assert torch.equal(LatentScale.identity(3).denormalize(latent), latent)


def test_scale_survives_json_exactly():
    scale = LatentScale.from_moments(torch.tensor([0.1, 1 / 3]), torch.tensor([2.7, 1e-3]))
    assert LatentScale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


@pytest.mark.parametrize(
    ("shift", "scale"),
    [
        ((0.0,), (0.0,)),
        ((0.0,), (-1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.0,), (float("inf"),)),
        ((0.0, 0.0), (1.0,)),
    ],
)
def test_map_without_inverse_is_refused(shift, scale):
    with pytest.raises(ArtifactError, match="no inverse"):
        LatentScale(shift, scale)
