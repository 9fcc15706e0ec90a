from functools import cache

import numpy as np
import pytest
from scipy import ndimage, stats

from common.errors import ConfigError
from common.frozen import parse
from experiments.phantom.exam import PhantomExam, appointments, make_exam, make_patient
from experiments.phantom.hospital import HOSPITALS, Hospital, Population, Scanner
from experiments.phantom.tissue import Tissue

NORTH, HARBOR, VALLEY = HOSPITALS
SEED = 11


@cache
def _cohort(hospital: Hospital, count: int = 12) -> tuple[PhantomExam, ...]:
    return tuple(make_patient(hospital, index, SEED) for index in range(count))


def _mean(exam: PhantomExam, tissue: Tissue, phase: int) -> float:
    """Mean signal in the voxels of a tissue that touch no other: no partial volume."""
    mask = exam.labels == tissue
    core = ndimage.binary_erosion(mask)
    return float(exam.channels[phase][core if core.any() else mask].mean())


def _enhancement(exam: PhantomExam, tissue: Tissue, phase: int) -> float:
    before = _mean(exam, tissue, 0)
    return (_mean(exam, tissue, phase) - before) / before


def _gland_share(exam: PhantomExam) -> float:
    gland = (exam.labels == Tissue.FIBROGLANDULAR).sum()
    return float(gland / (gland + (exam.labels == Tissue.FAT).sum()))


def _with(hospital: Hospital, **changes) -> Hospital:
    return hospital.model_copy(update=changes)


def test_same_seed_gives_the_same_bits():
    first, again = make_patient(NORTH, 3, SEED), make_patient(NORTH, 3, SEED)
    assert first.channels.tobytes() == again.channels.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert first.density == again.density


@pytest.mark.parametrize("change", ["seed", "index", "hospital name"])
def test_another_seed_patient_or_hospital_gives_another_breast(change):
    other = {
        "seed": lambda: make_patient(NORTH, 3, SEED + 1),
        "index": lambda: make_patient(NORTH, 4, SEED),
        "hospital name": lambda: make_patient(_with(NORTH, name="south"), 3, SEED),
    }[change]()
    assert (make_patient(NORTH, 3, SEED).labels != other.labels).mean() > 0.01


def test_a_patient_does_not_depend_on_how_many_there_are():
    few, many = _with(NORTH, num_patients=5), _with(NORTH, num_patients=500)
    assert appointments(few, 4, SEED)[0].name == appointments(many, 4, SEED)[0].name
    np.testing.assert_array_equal(make_patient(few, 4, SEED).channels, make_patient(many, 4, SEED).channels)


def test_the_woman_does_not_depend_on_the_scanner_settings():
    louder = _with(
        NORTH, scanner=NORTH.scanner.model_copy(update={"noise": 0.1, "gain": 50.0, "blur_mm": 8.0})
    )
    np.testing.assert_array_equal(make_patient(NORTH, 2, SEED).labels, make_patient(louder, 2, SEED).labels)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda h: h.name)
def test_every_tissue_is_there_and_a_lesion_only_where_declared(hospital):
    for exam in _cohort(hospital):
        declared = set(Tissue) if exam.has_lesion else set(Tissue) - {Tissue.LESION}
        assert set(np.unique(exam.labels)) == declared


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda h: h.name)
def test_tissues_follow_one_another_from_front_to_back(hospital):
    order = [Tissue.AIR, Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE, Tissue.LUNG]
    for exam in _cohort(hospital):
        depth = [np.argwhere(exam.labels == tissue)[:, 1].mean() for tissue in order]
        assert depth == sorted(depth, reverse=True)
        in_front = exam.labels[:, -3:]
        assert (in_front == Tissue.AIR).mean() > 0.95


def test_shapes_types_and_geometry_are_the_scanners():
    for hospital in HOSPITALS:
        exam = _cohort(hospital)[0]
        assert exam.channels.shape == (3, *hospital.scanner.shape)
        assert (exam.channels.dtype, exam.labels.dtype) == (np.float32, np.uint8)
        assert exam.spacing_mm == hospital.scanner.spacing_mm
        np.testing.assert_allclose(np.diag(exam.affine)[:3], hospital.scanner.spacing_mm)
        centre = exam.affine @ [*((np.array(hospital.scanner.shape) - 1) / 2), 1]
        np.testing.assert_allclose(centre[:3], [exam.side * 80.0, 0, 0], atol=1e-9)


def test_fields_of_view_cover_a_study_of_32_voxels_at_5_mm():
    for hospital in HOSPITALS:
        extent = np.multiply(hospital.scanner.shape, hospital.scanner.spacing_mm)
        assert (extent >= 160).all()
        assert max(hospital.scanner.spacing_mm) < 5


def test_channels_are_whole_numbers_that_16_bits_hold():
    for hospital in HOSPITALS:
        channels = _cohort(hospital)[0].channels
        np.testing.assert_array_equal(channels, channels.astype(np.int16))


def test_gland_share_rises_from_density_a_to_d():
    shares = {}
    for place, density in enumerate("abcd"):
        only = [0.0] * 4
        only[place] = 1.0
        population = Population(density_shares=tuple(only), lesion_rate=0.0)
        exams = [make_patient(_with(VALLEY, population=population), i, SEED) for i in range(3)]
        assert {exam.density for exam in exams} == {density}
        shares[density] = [_gland_share(exam) for exam in exams]
    for thin, dense in ("ab", "bc", "cd"):
        assert max(shares[thin]) < min(shares[dense])


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda h: h.name)
def test_before_contrast_agent_signals_are_ordered(hospital):
    order = [Tissue.AIR, Tissue.FAT, Tissue.MUSCLE, Tissue.FIBROGLANDULAR]
    means = np.mean([[_mean(exam, tissue, 0) for tissue in order] for exam in _cohort(hospital)], axis=0)
    assert (np.diff(means) > 0).all()


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda h: h.name)
def test_lesions_and_vessels_enhance_early_and_more_than_gland_and_fat(hospital):
    for exam in (e for e in _cohort(hospital) if e.has_lesion):
        lesion = _enhancement(exam, Tissue.LESION, 1)
        assert lesion > 1.5 * _enhancement(exam, Tissue.FIBROGLANDULAR, 1)
        assert lesion > 3 * abs(_enhancement(exam, Tissue.FAT, 1))
    mean = {
        (tissue, phase): np.mean([_enhancement(exam, tissue, phase) for exam in _cohort(hospital)])
        for tissue in (Tissue.VESSEL, Tissue.FIBROGLANDULAR, Tissue.FAT)
        for phase in (1, 2)
    }
    assert mean[Tissue.VESSEL, 1] > mean[Tissue.VESSEL, 2] > mean[Tissue.FIBROGLANDULAR, 2]
    assert mean[Tissue.FIBROGLANDULAR, 2] > mean[Tissue.FIBROGLANDULAR, 1] > mean[Tissue.FAT, 1]


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda h: h.name)
def test_air_has_the_rayleigh_noise_of_a_magnitude_image(hospital):
    exam = _cohort(hospital)[1]
    air = exam.channels[:, :, -5:][:, exam.labels[:, -5:] == Tissue.AIR]
    far = air[air < np.percentile(air, 99.9)]
    sigma = np.sqrt(np.mean(far**2) / 2)
    assert far.mean() / sigma == pytest.approx(np.sqrt(np.pi / 2), rel=0.03)
    # The exam's gain is within three standard deviations (0.1, logarithmic) of the scanner's.
    assert abs(np.log(sigma / (hospital.scanner.noise * hospital.scanner.gain))) < 0.35


def test_without_noise_the_phases_differ_only_by_contrast_agent():
    quiet = NORTH.scanner.model_copy(update={"noise": 0.0, "contrast_uptake": 1e-9})
    exam = make_patient(_with(NORTH, scanner=quiet), 0, SEED)
    np.testing.assert_allclose(exam.channels[1], exam.channels[0], atol=1)
    assert exam.channels[0][exam.labels == Tissue.FIBROGLANDULAR].min() > 0


def test_blur_spreads_a_signal_and_keeps_its_sum():
    sharp, soft = (
        make_patient(
            _with(NORTH, scanner=NORTH.scanner.model_copy(update={"noise": 0.0, "blur_mm": b})), 0, SEED
        )
        for b in (0.0, 9.0)
    )
    assert soft.channels.sum() == pytest.approx(sharp.channels.sum(), rel=0.02)
    assert (
        np.abs(np.diff(soft.channels, axis=1)).mean() < 0.8 * np.abs(np.diff(sharp.channels, axis=1)).mean()
    )


def test_hospitals_differ_in_density_size_and_contrast():
    def breast_ml(exam):
        tissues = (Tissue.FAT, Tissue.FIBROGLANDULAR)
        return float(np.isin(exam.labels, tissues).sum() * np.prod(exam.spacing_mm) / 1000)

    def fat_to_gland(exam):
        return _mean(exam, Tissue.FAT, 0) / _mean(exam, Tissue.FIBROGLANDULAR, 0)

    for measure in (_gland_share, breast_ml, fat_to_gland):
        harbor, valley = ([measure(exam) for exam in _cohort(h)] for h in (HARBOR, VALLEY))
        assert stats.mannwhitneyu(harbor, valley).pvalue < 0.01, measure.__name__


def test_two_exams_of_a_patient_share_the_woman_but_not_the_image():
    both = _with(
        NORTH, population=NORTH.population.model_copy(update={"both_breasts_rate": 1.0, "lesion_rate": 0.0})
    )
    within, shares = [], []
    for index in range(6):
        first, second = (make_exam(a) for a in appointments(both, index, SEED))
        assert first.side == -second.side
        assert first.density == second.density
        for other in (second.channels, second.channels[:, ::-1]):  # nor are they mirror images
            assert (first.channels != other).mean() > 0.5
        within.append(abs(_gland_share(first) - _gland_share(second)))
        shares.append(_gland_share(first))
    between = [abs(a - b) for i, a in enumerate(shares) for b in shares[:i]]
    assert np.mean(within) < 0.35 * np.mean(between)


def test_rates_of_lesions_and_second_exams_are_the_populations():
    big = _with(NORTH, population=Population(lesion_rate=0.3, both_breasts_rate=0.25))
    patients = [appointments(big, index, SEED) for index in range(1500)]
    exams = [exam for patient in patients for exam in patient]
    assert len(exams) / len(patients) == pytest.approx(1.25, abs=0.04)
    assert np.mean([exam.has_lesion for exam in exams]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([exam.side for exam in exams]) == pytest.approx(0.0, abs=0.08)
    assert len({exam.name for exam in exams}) == len(exams)


def test_presets_are_three_hospitals_that_differ():
    assert len({hospital.name for hospital in HOSPITALS}) == 3
    assert len({hospital.scanner.orientation for hospital in HOSPITALS}) == 3
    assert all(24 <= hospital.num_patients <= 40 for hospital in HOSPITALS)


def test_density_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ConfigError, match=r"sum to 1\.2"):
        parse(Population, {"density_shares": [0.3, 0.3, 0.3, 0.3]}, where="population")


def test_an_orientation_that_names_an_axis_twice_is_refused():
    with pytest.raises(ConfigError, match="RLS"):
        parse(Scanner, {"shape": [8, 8, 8], "spacing_mm": [4, 4, 4], "orientation": "RLS"}, where="scanner")
