"""Windows: exact inverses up to the clipping, one window per exam, background outside."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import ConstantVolumeError
from common.volume.geometry import crop_or_pad
from common.volume.intensity import BACKGROUND, Window, window_of
from common.volume.spec import FixedWindow, PercentileWindow, VolumeSpec

intensities = st.floats(-2e6, 2e6, width=32)


def a_spec(intensity, channels=("image",)) -> VolumeSpec:
    return VolumeSpec(shape=(8, 8, 8), spacing_mm=(1, 1, 1), channels=channels, intensity=intensity)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(low=intensities, width=st.floats(1e-3, 2e6), values=st.lists(intensities, min_size=1, max_size=20))
def test_denormalize_undoes_normalize_up_to_the_clipping(low, width, values) -> None:
    window = Window(low, low + width)
    assume(window.high > window.low)
    volume = torch.tensor(values)
    back = window.denormalize(window.normalize(volume))
    clipped = volume.clamp(window.low, window.high)
    # Two roundings to float32, relative to the window for the scaled and to the value for the result.
    tolerance = 2**-24 * (window.high - window.low) + 2**-23 * max(abs(window.low), abs(window.high))
    assert float((back.double() - clipped.double()).abs().max()) <= tolerance


@given(low=intensities, width=st.floats(1e-3, 2e6), values=st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_normalize_undoes_denormalize(low, width, values) -> None:
    window = Window(low, low + width)
    volume = torch.tensor(values, dtype=torch.float64)
    back = window.normalize(window.denormalize(volume))
    resolution = 2**-50 * (abs(window.low) + abs(window.high)) / (window.high - window.low)
    assert float((back - volume).abs().max()) <= 2 * resolution + 2**-50


def test_the_ends_of_the_window_map_exactly_and_what_lies_outside_is_clipped() -> None:
    window = Window(-1000.0, 300.0)
    hounsfield = torch.tensor([-3024.0, -1000.0, -350.0, 300.0, 4000.0])
    assert window.normalize(hounsfield).tolist() == [-1, -1, 0, 1, 1]
    assert window.denormalize(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1000, -350, 300]


def test_extreme_intensities_overflow_nowhere() -> None:
    window = Window(-3e38, 3e38)
    volume = torch.tensor([-3e38, 0.0, 3e38])
    assert window.normalize(volume).tolist() == [-1, 0, 1]


@given(factor=st.sampled_from([1e-4, 0.5, 3.0, 1e4, 1.7e6]), shift=st.floats(-100, 100))
def test_a_percentile_window_makes_the_unit_of_a_scanner_irrelevant(factor, shift) -> None:
    volume = noise(1, 6, 6, 6).double()
    spec = a_spec(PercentileWindow(low=1, high=99))
    other = volume * factor + shift * factor
    expected = window_of(volume, spec).normalize(volume)
    torch.testing.assert_close(window_of(other, spec).normalize(other), expected, atol=1e-9, rtol=0)


def test_one_window_holds_for_all_channels_so_enhancement_survives() -> None:
    early = noise(8, 8, 8).abs() + 1
    exam = torch.stack([early, 3 * early])  # the late phase is three times as bright
    window = window_of(exam, a_spec(PercentileWindow(low=0, high=100), channels=("pre", "post")))
    back = window.denormalize(window.normalize(exam))
    torch.testing.assert_close(back[1] / back[0], torch.full_like(early, 3.0), atol=1e-4, rtol=0)
    assert window.low == pytest.approx(float(early.min()))
    assert window.high == pytest.approx(3 * float(early.max()))


def test_the_window_is_numpys_percentile_over_every_voxel() -> None:
    volume = noise(3, 5, 6, 7, seed=1)
    window = window_of(volume, a_spec(PercentileWindow(low=2.5, high=90), channels=("a", "b", "c")))
    assert window.low == pytest.approx(np.percentile(volume.numpy(), 2.5))
    assert window.high == pytest.approx(np.percentile(volume.numpy(), 90))


def test_one_outlier_does_not_darken_a_volume() -> None:
    volume = noise(1, 16, 16, 16).abs()
    spiked = volume.clone()
    spiked[0, 0, 0, 0] = 1e7
    spec = a_spec(PercentileWindow())
    difference = window_of(volume, spec).normalize(volume) - window_of(spiked, spec).normalize(spiked)
    assert float(difference[0, 1:].abs().max()) < 0.02  # by minimum and maximum it would be 2


def test_padding_equals_background() -> None:
    # Air scales to -1, and padding after scaling is -1: no border is seen between them.
    tissue = noise(1, 4, 4, 4).abs() + 5
    in_air = torch.zeros(1, 12, 12, 12)
    in_air[:, 4:8, 4:8, 4:8] = tissue
    window = window_of(in_air, a_spec(PercentileWindow(low=0, high=100)))
    padded = crop_or_pad(window.normalize(tissue), (12, 12, 12), fill=BACKGROUND)
    assert torch.equal(padded, window.normalize(in_air))


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_volume_is_refused_by_name(value) -> None:
    with pytest.raises(ConstantVolumeError, match=r"is empty .*constant"):
        window_of(torch.full((1, 4, 4, 4), value), a_spec(PercentileWindow()))


def test_a_volume_that_is_nearly_all_background_is_refused() -> None:
    volume = torch.zeros(1, 20, 20, 20)
    volume[0, 0, 0, :3] = 5.0  # less than 0.5 %
    with pytest.raises(ConstantVolumeError, match="nearly all background"):
        window_of(volume, a_spec(PercentileWindow()))


@pytest.mark.parametrize("shift", [-5000.0, 5000.0])
def test_a_volume_outside_the_fixed_window_is_refused(shift) -> None:
    with pytest.raises(ConstantVolumeError, match="outside the study's window from -1000 to 400"):
        window_of(noise(1, 4, 4, 4) + shift, a_spec(FixedWindow(low=-1000, high=400)))


def test_a_fixed_window_is_the_same_for_every_exam() -> None:
    spec = a_spec(FixedWindow(low=-1000, high=400))
    assert {window_of(noise(1, 4, 4, 4, seed=s) * 100, spec) for s in range(3)} == {Window(-1000.0, 400.0)}


def test_a_window_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Window(0.0, 1.0).low = 0.5
