"""Every real volume through the whole reader, with the committed splits."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from real_data import DATA, needs_real_data

from client.dataset import VolumeDataset
from client.preprocess import preprocess
from client.site_config import Selection, SiteConfig
from common.volume.spec import VolumeSpec
from experiments.splits import SPLITS

pytestmark = needs_real_data

HIPPOCAMPUS = VolumeSpec(shape=(32, 48, 32), spacing_mm=(1, 1, 1))
BREAST = VolumeSpec(shape=(64, 64, 8), spacing_mm=(1, 1, "keep"), channels=("pre", "early", "late"))
SETS = {
    "hippocampus": ("hippocampus-mri", "hippocampus.csv", HIPPOCAMPUS, 158, 102),
    "breast": ("breast-dce-mri", "breast_dce.csv", BREAST, 132, 132),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("real")


def open_set(name: str, folder: Path, select: Selection | None = None) -> VolumeDataset:
    data, table, spec, _, _ = SETS[name]
    site = SiteConfig(
        name=name, data=DATA / data, patients=SPLITS / table, select=select, state=folder / name
    )
    return VolumeDataset.open(site, spec)


@pytest.mark.parametrize("name", SETS)
def test_every_volume_is_finite_in_range_and_has_contrast(name, folder) -> None:
    _, _, spec, num_exams, num_patients = SETS[name]
    dataset = open_set(name, folder)
    volumes = dataset.volumes()
    assert volumes.shape == (num_exams, spec.num_channels, *spec.shape)
    assert volumes.dtype == torch.float32
    assert dataset.num_patients == num_patients
    flat = volumes.flatten(1)
    assert bool(torch.isfinite(flat).all())
    assert float(flat.min()) == -1
    assert float(flat.max()) == 1
    # Whatever the unit of the scanner: brightness and contrast end up alike.
    assert float(flat.std(1).min()) > 0.2
    assert float(flat.mean(1).abs().max()) < 0.8


def test_sources_of_8_bit_and_of_a_million_grey_levels_become_alike(folder) -> None:
    dataset = open_set("hippocampus", folder)
    volumes = dataset.volumes()
    highest = {}
    for index, exam in enumerate(dataset.exams):
        image = nib.load(exam.files[0])
        highest[exam.exam] = (float(np.asarray(image.dataobj).max()), float(volumes[index].mean()))
    raw = [value for value, _ in highest.values()]
    assert min(raw) <= 255
    assert max(raw) > 1.5e6
    bytes_mean = np.mean([mean for value, mean in highest.values() if value <= 255])
    large_mean = np.mean([mean for value, mean in highest.values() if value > 1e4])
    assert abs(bytes_mean - large_mean) < 0.5


def test_expert_labels_stay_on_the_hippocampus(folder) -> None:
    dataset = open_set("hippocampus", folder)
    maps = dataset.label_maps()
    assert maps.unique().tolist() == [0, 1, 2]
    kept = []
    for exam, label_map in zip(dataset.exams, maps, strict=True):
        original = np.asarray(nib.load(exam.label_file).dataobj)
        kept.append(float((label_map > 0).sum()) / (original > 0).sum())
    assert min(kept) > 0.9, "the crop must not cut the structure away"
    assert max(kept) <= 1


def test_the_stack_of_seven_slices_is_filled_with_background(folder) -> None:
    dataset = open_set("breast", folder)
    short = [i for i, exam in enumerate(dataset.exams) if nib.load(exam.files[0]).shape[2] == 7]
    assert len(short) == 1
    volume = dataset.volumes()[short[0]]
    assert (volume[..., 0] == -1).all(), "of an odd difference the larger half is filled before"
    assert (volume[..., 1:].std((0, 1, 2)) > 0).all()


def test_slices_are_positions_and_keep_their_voxels(folder) -> None:
    dataset = open_set("breast", folder)
    exam = dataset.exams[0]
    made = preprocess(exam.files, None, BREAST)
    original = np.stack([np.asarray(nib.load(path).dataobj) for path in exam.files])[:, 8:72, 8:72]
    back = made.window.denormalize(made.volume).numpy()
    inside = (original > made.window.low) & (original < made.window.high)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(back[inside], original[inside], atol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_sites_and_parts_divide_the_patients(name, folder) -> None:
    sites = {"hippocampus": "abc", "breast": ("spy1", "spy2")}[name]
    opened = [
        open_set(name, folder, Selection(site=site, part=(part,)))
        for site in sites
        for part in ("generator", "labelled", "validation", "test")
    ]
    patients = [patient for dataset in opened for patient in set(dataset.patients)]
    assert len(patients) == len(set(patients)) == SETS[name][4]
    assert sum(len(dataset.exams) for dataset in opened) == SETS[name][3]
    assert len({dataset.digest for dataset in opened}) == len(opened)
