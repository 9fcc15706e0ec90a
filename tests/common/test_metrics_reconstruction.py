"""Reconstruction metrics against closed forms, an independent MS-SSIM and MONAI's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import MultiScaleSSIMMetric
from scipy import ndimage

from common.errors import MetricError, NonFiniteVolumeError
from common.metrics.reconstruction import (
    intensity_std_ratio,
    mean_over_patients,
    ms_ssim,
    patient_means,
    psnr,
    psnr_over_global_mse,
)


def volumes(count=2, channels=1, shape=(32, 32, 28), seed=0):
    """Smooth random volumes in [-1, 1] with some noise."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, channels, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2, 2)) * 8 + 0.1 * noise
    return torch.from_numpy(np.clip(smooth, -1, 1)).float()


@given(error=st.floats(1e-4, 2))
def test_psnr_of_a_constant_error_is_the_closed_form(error):
    original = torch.zeros(1, 1, 4, 4, 4)
    assert psnr(original + error, original).item() == pytest.approx(20 * math.log10(2 / error), abs=1e-4)


def test_psnr_is_each_volumes_own():
    original = torch.zeros(2, 1, 4, 4, 4)
    errors = torch.tensor([0.2, 0.02]).reshape(2, 1, 1, 1, 1)
    assert psnr(original + errors, original).tolist() == pytest.approx([20, 40], abs=1e-4)


@settings(max_examples=25)
@given(errors=st.lists(st.floats(1e-3, 2), min_size=2, max_size=5))
def test_global_psnr_is_never_above_the_mean_of_psnr(errors):
    original = torch.zeros(len(errors), 1, 3, 3, 3)
    shifted = original + torch.tensor(errors).reshape(-1, 1, 1, 1, 1)
    assert psnr_over_global_mse(shifted, original) <= psnr(shifted, original).mean().item() + 1e-9


def test_global_psnr_is_that_of_the_mean_squared_error():
    original = torch.zeros(2, 1, 4, 4, 4)
    shifted = original + torch.tensor([0.1, 0.3]).reshape(2, 1, 1, 1, 1)
    assert psnr_over_global_mse(shifted, original) == pytest.approx(10 * math.log10(4 / 0.05), abs=1e-4)


def test_equal_volumes_have_infinite_psnr():
    assert psnr(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)).item() == math.inf


@pytest.mark.parametrize("slice_axis", [None, "x", "y", "z"])
def test_ms_ssim_of_a_volume_with_itself_is_one(slice_axis):
    assert ms_ssim(volumes(), volumes(), slice_axis).tolist() == [1.0, 1.0]


def test_ms_ssim_is_monais_on_intensities_moved_to_be_positive():
    original = volumes(2, channels=2)
    changed = (original + 0.2 * volumes(2, channels=2, seed=1)).clamp(-1, 1)
    monai = MultiScaleSSIMMetric(
        spatial_dims=3, data_range=2.0, kernel_size=7, weights=(0.3, 0.4, 0.3), reduction="none"
    )
    expected = monai(changed + 1, original + 1).flatten()
    assert ms_ssim(changed, original).float().tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def slow_ms_ssim(first, second):
    """Wang et al. 2003, one channel, float64, with scipy's correlation instead of a convolution layer."""
    first, second = first.double().numpy() + 1, second.double().numpy() + 1
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blurred(image):
        for axis in range(image.ndim):
            image = ndimage.correlate1d(image, taps, axis=axis)
        return image[(slice(3, -3),) * image.ndim]

    def halved(image):
        for axis in range(image.ndim):
            image = image.take(range(0, image.shape[axis] // 2 * 2), axis)
            image = (
                image.take(range(0, image.shape[axis], 2), axis)
                + image.take(range(1, image.shape[axis], 2), axis)
            ) / 2
        return image

    product = 1.0
    for scale, weight in enumerate((0.3, 0.4, 0.3)):
        mean_1, mean_2 = blurred(first), blurred(second)
        variance_1, variance_2 = blurred(first**2) - mean_1**2, blurred(second**2) - mean_2**2
        covariance = blurred(first * second) - mean_1 * mean_2
        term = (2 * covariance + 0.06**2) / (variance_1 + variance_2 + 0.06**2)
        if scale == 2:
            term = term * (2 * mean_1 * mean_2 + 0.02**2) / (mean_1**2 + mean_2**2 + 0.02**2)
        product *= max(term.mean(), 0) ** weight
        first, second = halved(first), halved(second)
    return product


def test_ms_ssim_matches_an_independent_implementation():
    original = volumes(1, shape=(32, 48, 32))
    changed = (0.8 * original + 0.3 * volumes(1, shape=(32, 48, 32), seed=5)).clamp(-1, 1)
    # float32 moments against float64: differences of about 1e-7 over c2 = 0.0036.
    assert ms_ssim(changed, original).item() == pytest.approx(
        slow_ms_ssim(changed[0, 0], original[0, 0]), abs=2e-4
    )


def test_sliced_ms_ssim_is_the_mean_over_independent_slices():
    original, changed = volumes(1, shape=(40, 36, 3)), volumes(1, shape=(40, 36, 3), seed=3)
    by_slice = [slow_ms_ssim(changed[0, 0, :, :, k], original[0, 0, :, :, k]) for k in range(3)]
    assert ms_ssim(changed, original, "z").item() == pytest.approx(np.mean(by_slice), abs=2e-4)


def test_slices_of_different_patients_are_not_mixed():
    original, changed = volumes(2, shape=(32, 32, 4)), volumes(2, shape=(32, 32, 4), seed=3)
    together = ms_ssim(changed, original, "z")
    apart = torch.cat([ms_ssim(changed[i : i + 1], original[i : i + 1], "z") for i in range(2)])
    assert together.tolist() == pytest.approx(apart.tolist(), abs=1e-6)


def test_anticorrelated_volumes_score_zero_and_not_nan():
    assert ms_ssim(-volumes(), volumes()).tolist() == [0.0, 0.0]


def test_constant_background_is_no_division_by_zero():
    background = torch.full((1, 1, 28, 28, 28), -1.0)
    assert ms_ssim(background, background).item() == 1.0


def test_a_small_shift_of_mid_grey_is_a_small_change():
    grey = torch.zeros(1, 1, 28, 28, 28)
    assert ms_ssim(grey + 0.03, grey).item() > 0.999  # on signed intensities it would be 0.70


def test_more_blur_is_less_similar():
    original = volumes(1)
    scores = [
        ms_ssim(torch.from_numpy(ndimage.gaussian_filter(original.numpy(), (0, 0, s, s, s))), original).item()
        for s in (0.5, 1, 2)
    ]
    assert 1 > scores[0] > scores[1] > scores[2]


def test_few_slices_are_refused_in_3d_with_the_way_out():
    stack = volumes(1, shape=(32, 32, 8))
    with pytest.raises(MetricError, match=r"below 28.*slice_axis"):
        ms_ssim(stack, stack)


@pytest.mark.parametrize("metric", [psnr, psnr_over_global_mse, ms_ssim, intensity_std_ratio])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_voxels_are_refused_by_volume(metric, bad):
    broken = volumes()
    broken[1, 0, 3, 3, 3] = bad
    with pytest.raises(NonFiniteVolumeError, match=r"reconstruction: volumes \[1\]"):
        metric(broken, volumes())


@pytest.mark.parametrize("metric", [psnr, psnr_over_global_mse, ms_ssim, intensity_std_ratio])
def test_a_broadcast_is_not_a_comparison(metric):
    with pytest.raises(MetricError, match="cannot be compared"):
        metric(volumes(1), volumes(2))


@given(scale=st.floats(0.01, 1), offset=st.floats(-0.5, 0.5))
@settings(max_examples=20)
def test_std_ratio_is_the_scale_whatever_the_offset(scale, offset):
    original = volumes(1, shape=(8, 8, 8))
    assert intensity_std_ratio(scale * original + offset, original).item() == pytest.approx(scale, rel=1e-4)


def test_std_ratio_of_a_constant_original_is_refused():
    with pytest.raises(MetricError, match="original 1 is constant"):
        intensity_std_ratio(volumes(), torch.cat([volumes(1), torch.zeros(1, 1, 32, 32, 28)]))


def test_a_patient_with_many_volumes_weighs_one():
    values = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert mean_over_patients(values, ["b", "b", "b", "a"]) == 6.0
    assert patient_means(values, ["b", "b", "b", "a"]) == {"a": 10.0, "b": 2.0}


@given(st.permutations(range(5)))
def test_the_mean_over_patients_ignores_the_order_of_volumes(order):
    values, patients = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.2]).double(), ["p", "q", "p", "r", "q"]
    shuffled = mean_over_patients(values[list(order)], [patients[i] for i in order])
    assert shuffled == pytest.approx(mean_over_patients(values, patients), abs=1e-15)


def test_values_without_patients_are_refused():
    with pytest.raises(MetricError, match="2 values for 1 volumes"):
        patient_means(torch.zeros(2), ["a"])
    with pytest.raises(MetricError, match="0 values"):
        mean_over_patients(torch.zeros(0), [])
