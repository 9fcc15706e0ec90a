"""The two extractors: pure, one example at a time, and right about what they claim to measure."""

import math

import pytest
import torch

from common.errors import MetricError
from common.metrics.features import EXTRACTORS, Standardizer, descriptor, extract, random_conv

BOTH = pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS)


def noise(count, channels=1, shape=(16, 20, 8), seed=0):
    return torch.rand(count, channels, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@BOTH
def test_permuting_the_batch_permutes_the_features(extractor):
    volumes, order = noise(5), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(extractor(volumes[order]), extractor(volumes)[order], atol=1e-5)


@BOTH
def test_an_example_does_not_see_its_neighbours(extractor):
    volumes = noise(3)
    changed = volumes.clone()
    changed[1] = -1
    kept = torch.tensor([0, 2])
    assert torch.equal(extractor(volumes)[kept], extractor(changed)[kept])
    assert not torch.allclose(extractor(volumes)[1], extractor(changed)[1], atol=0.1)


@BOTH
def test_features_do_not_depend_on_the_batch_size(extractor):
    volumes = noise(5)
    assert torch.allclose(extract(extractor, volumes, 2), extract(extractor, volumes, 5), atol=1e-5)


@BOTH
def test_features_are_deterministic_and_leave_the_global_generator_alone(extractor):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = extractor(noise(2))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, extractor(noise(2)))


@BOTH
@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (32, 48, 32)), (3, (64, 64, 8)), (2, (9, 7, 5)), (1, (16, 16, 1))]
)
def test_any_channels_and_shape_give_finite_features(extractor, channels, shape):
    features = extractor(noise(2, channels, shape))
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1])


@BOTH
def test_features_are_not_collapsed(extractor):
    """Noise, blur and structure must be as far apart as different inputs are, not nearly equal."""
    ramp = torch.linspace(-1, 1, 16).reshape(1, 1, 16, 1, 1).expand(1, 1, 16, 20, 8)
    inputs = torch.cat([noise(1), 0.3 * noise(1, seed=1), ramp, -ramp])
    features = extractor(inputs).double()
    directions = torch.nn.functional.normalize(features - features.mean(dim=0), dim=1)
    similarity = directions @ directions.T - 2 * torch.eye(4)
    assert similarity.max() < 0.9


def test_the_random_network_is_the_same_one_everywhere():
    """Its weights are part of its definition: a change of architecture or seed must be deliberate."""
    features = random_conv(torch.linspace(-1, 1, 4096).reshape(1, 1, 16, 16, 16))[0]
    assert features.shape == (112,)
    assert features[[0, 8, 16, 111]].tolist() == pytest.approx([0.6800, 0.6703, 0.4105, 0.1594], abs=2e-4)


def test_the_random_network_sees_texture_that_means_do_not():
    smooth = torch.zeros(1, 1, 16, 16, 16)
    checkered = torch.ones(1, 1, 16, 16, 16)
    checkered[..., ::2] = -1
    assert (random_conv(smooth) - random_conv(checkered)).abs().max() > 0.2


def parts(volume):
    """The descriptor of one one-channel volume, cut into its four groups."""
    return descriptor(volume[None, None])[0].split([9, 21, 8, 27])


def test_quantiles_are_the_nearest_order_statistics():
    volume = noise(1, shape=(16, 16, 8))[0, 0]
    levels = torch.tensor([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])
    expected = torch.quantile(volume.flatten(), levels, interpolation="nearest")
    assert torch.equal(parts(volume)[0], expected)


@pytest.mark.parametrize(("axis", "band"), [(2, 0), (1, 1), (0, 3)])
def test_stripes_put_all_haar_detail_into_their_own_band(axis, band):
    volume = torch.ones(16, 16, 16)
    volume.index_fill_(axis, torch.arange(0, 16, 2), -1)
    assert torch.equal(parts(volume)[1], torch.eye(21)[band])  # stripes of -1 and 1: amplitude 1


def test_coarse_stripes_belong_to_the_coarser_scale():
    volume = torch.ones(16, 16, 16)
    volume.index_fill_(2, torch.tensor([0, 1, 4, 5, 8, 9, 12, 13]), -1)
    assert torch.equal(parts(volume)[1], torch.eye(21)[7])  # the second scale's band along z


@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 12, 9), (8, 8, 1)])
def test_spectrum_shells_add_up_to_the_variance(shape):
    """Parseval, odd sides and the half that rfftn leaves out included."""
    volume = noise(1, shape=shape)[0, 0]
    power = parts(volume)[2].double().square().sum().item()
    assert power == pytest.approx(volume.var(correction=0).item(), rel=1e-4)


@pytest.mark.parametrize("cycles", [1, 3, 7])
def test_a_wave_lies_in_the_shell_of_its_frequency(cycles):
    """Of 16 voxels: frequency cycles/16 in shells 1/16 wide."""
    wave = torch.cos(2 * math.pi * cycles * torch.arange(16) / 16)
    spectrum = parts(wave.reshape(16, 1, 1).expand(16, 16, 16))[2]
    assert spectrum.argmax() == cycles
    assert spectrum.max().item() == pytest.approx(math.sqrt(0.5), abs=1e-5)


def test_the_thumbnail_says_where_things_are():
    volume = torch.full((12, 12, 12), -1.0)
    volume[8:, :4, 4:8] = 1
    thumbnail = parts(volume)[3].reshape(3, 3, 3)
    assert thumbnail[2, 0, 1] == 1
    assert (thumbnail == -1).sum() == 26


def test_standardised_training_features_have_mean_zero_and_deviation_one():
    features = 3 + 5 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    standardised = Standardizer.fit(features)(features)
    assert torch.allclose(standardised.mean(dim=0), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(standardised.std(dim=0, correction=0), torch.ones(4).double(), atol=1e-12)


def test_a_feature_in_which_real_volumes_agree_does_not_explode():
    constant = torch.full((5, 1), -1.0)
    assert Standardizer.fit(constant)(torch.tensor([[-0.98]])).item() == pytest.approx(4, abs=1e-4)


def test_a_standardizer_needs_two_finite_volumes():
    with pytest.raises(MetricError, match="at least 2"):
        Standardizer.fit(torch.zeros(1, 3))
    with pytest.raises(MetricError, match="not finite"):
        Standardizer.fit(torch.tensor([[0.0], [math.nan]]))
