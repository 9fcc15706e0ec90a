import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.errors import DataError
from common.metrics.texture import (
    eroded_foreground,
    foreground_contrast,
    high_frequency_energy,
    otsu_threshold,
    texture_ratio,
)

SHARE_OF_WHITE_NOISE = 1 - (4 / 3) * math.pi * 0.25**3  # the spectrum outside a ball of half Nyquist


def _object(values: np.ndarray | float, size: int = 40, margin: int = 4) -> torch.Tensor:
    """Return a cube of ``values`` in a background of 0."""
    image = np.zeros((size, size, size))
    image[margin:-margin, margin:-margin, margin:-margin] = values
    return torch.from_numpy(image)


def _textured(generator: np.random.Generator, count: int = 2) -> torch.Tensor:
    """Return volumes of one channel: a bright object with blobs several voxels wide."""
    blobs = [ndimage.gaussian_filter(generator.standard_normal((32, 32, 32)), 1.5) for _ in range(count)]
    return torch.stack([_object(3 + b / b.std() * 0.3)[None] for b in blobs])


def _each_channel(volumes: torch.Tensor, change) -> torch.Tensor:
    return torch.stack([torch.stack([torch.from_numpy(change(c.numpy())) for c in v]) for v in volumes])


@settings(max_examples=40, deadline=None)
@given(
    num_high=st.integers(1, 63),
    low=st.floats(-100, 100),
    gap=st.floats(0.01, 100),
)
def test_otsu_of_two_levels_is_their_middle(num_high, low, gap):
    values = torch.full((64,), low, dtype=torch.float64)
    values[:num_high] = low + gap
    assert otsu_threshold(values.reshape(4, 4, 4)) == pytest.approx(low + gap / 2, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=27, max_size=27))
def test_otsu_minimizes_the_variance_within_classes(levels):
    values = np.array(levels, dtype=float)
    threshold = otsu_threshold(torch.from_numpy(values.reshape(3, 3, 3)))
    if len(set(levels)) == 1:
        assert threshold == levels[0]
        return

    def within(t):
        low, high = values[values <= t], values[values > t]
        return len(low) * low.var() + len(high) * high.var()

    distinct = sorted(set(levels))
    best = min(within(t) for t in distinct[:-1])
    assert within(threshold) == pytest.approx(best, abs=1e-9)


def test_foreground_is_the_object_less_two_voxels_on_every_side():
    mask = eroded_foreground(_object(1.0, size=20, margin=4)).numpy()
    expected = np.zeros((20, 20, 20), dtype=bool)
    expected[6:14, 6:14, 6:14] = True
    np.testing.assert_array_equal(mask, expected)


def test_contrast_of_a_ramp_spans_the_middle_four_fifths():
    ramp = 10 + 0.1 * np.arange(32)[:, None, None] * np.ones((32, 32, 32))
    # Erosion leaves 28 equally frequent levels: a tenth of them ends in the 3rd, nine tenths in the 26th.
    assert foreground_contrast(_object(ramp)) == pytest.approx(0.1 * (26 - 3), rel=1e-9)


def test_contrast_ignores_the_step_from_object_to_background():
    assert foreground_contrast(_object(7.0)) == 0.0


def test_contrast_does_not_depend_on_what_lies_outside():
    inside = 10 + np.random.default_rng(0).random((32, 32, 32))
    image = _object(inside)
    other = image.clone()
    other[image == 0] = torch.rand(int((image == 0).sum()), dtype=torch.float64)
    assert foreground_contrast(other) == foreground_contrast(image)


@pytest.mark.parametrize("thickness", [1, 4])
def test_a_sheet_too_thin_to_erode_has_no_texture(thickness):
    image = torch.zeros(16, 16, 16)
    image[:, 6 : 6 + thickness] = 1.0
    assert not eroded_foreground(image).any()
    assert math.isnan(foreground_contrast(image))
    assert math.isnan(high_frequency_energy(image))


def test_white_noise_has_the_share_of_its_spectrum():
    noise = np.random.default_rng(1).standard_normal((56, 56, 56))
    energy = high_frequency_energy(_object(100 + noise, size=64))
    assert energy == pytest.approx(SHARE_OF_WHITE_NOISE, abs=0.02)


@pytest.mark.parametrize(
    ("wavelength", "low", "high"), [(12.0, 0.0, 0.02), (8.0, 0.0, 0.05), (2.5, 0.9, 1.1)]
)
def test_a_wave_is_high_frequency_when_shorter_than_four_voxels(wavelength, low, high):
    x = np.arange(56)[:, None, None] * np.ones((56, 56, 56))
    energy = high_frequency_energy(_object(100 + np.cos(2 * np.pi * x / wavelength), size=64))
    assert low <= energy <= high


def test_the_outline_is_not_high_frequency():
    axes = np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij")
    ball = (sum(a**2 for a in axes) < 16**2) * (10.0 + 0.02 * axes[0])
    assert high_frequency_energy(torch.from_numpy(ball)) < 0.02


def test_a_constant_object_has_no_energy():
    assert high_frequency_energy(_object(0.1)) == 0.0


def test_a_batch_equals_itself():
    volumes = _textured(np.random.default_rng(2))
    ratio = texture_ratio(volumes, volumes)
    assert (ratio.contrast, ratio.high_frequency, ratio.without_foreground) == (1.0, 1.0, 0)


def test_less_contrast_of_the_same_texture_keeps_the_share_of_energy():
    volumes = _textured(np.random.default_rng(3))
    faded = torch.where(volumes > 0, 3 + 0.5 * (volumes - 3), volumes)
    ratio = texture_ratio(faded, volumes)
    assert ratio.contrast == pytest.approx(0.5, rel=1e-9)
    assert ratio.high_frequency == pytest.approx(1.0, rel=1e-9)


def test_blur_lowers_both_numbers():
    volumes = _textured(np.random.default_rng(4))
    ratio = texture_ratio(_each_channel(volumes, lambda c: ndimage.gaussian_filter(c, 1.0)), volumes)
    assert ratio.contrast < 0.9
    assert ratio.high_frequency < 0.5


def test_noise_cannot_pass_for_texture():
    generator = np.random.default_rng(5)
    volumes = _textured(generator)
    flat = torch.where(volumes > 0, torch.full_like(volumes, 3.0), volumes)
    noisy = flat + 0.3 * torch.from_numpy(generator.standard_normal(volumes.shape))
    ratio = texture_ratio(noisy, volumes)
    assert ratio.contrast > 0.9  # noise of the same spread brings the contrast back ...
    assert ratio.high_frequency > 3  # ... and is told by its spectrum


def test_a_volume_without_object_counts_as_no_contrast():
    volumes = _textured(np.random.default_rng(6))
    test = volumes.clone()
    test[1] = 0.0
    ratio = texture_ratio(test, volumes[:1])
    assert ratio.without_foreground == 1
    assert ratio.contrast == pytest.approx(0.5, rel=1e-9)
    assert ratio.high_frequency == pytest.approx(1.0, rel=1e-9)
    assert math.isnan(texture_ratio(test[1:], volumes).high_frequency)


def test_channels_are_measured_apart():
    volumes = _textured(np.random.default_rng(7))
    stacked = torch.cat([volumes, 10 * volumes], dim=1)
    expected = np.mean([foreground_contrast(c) for v in stacked for c in v])
    measured = texture_ratio(stacked, volumes).contrast * np.mean(
        [foreground_contrast(v[0]) for v in volumes]
    )
    assert measured == pytest.approx(expected, rel=1e-9)


def test_real_volumes_without_texture_are_refused():
    volumes = _textured(np.random.default_rng(8))
    with pytest.raises(DataError, match="no foreground"):
        texture_ratio(volumes, torch.zeros_like(volumes))
    with pytest.raises(DataError, match="no texture"):
        texture_ratio(volumes, _object(1.0)[None, None])
    with pytest.raises(DataError, match="0 test"):
        texture_ratio(volumes[:0], volumes)
