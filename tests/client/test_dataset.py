"""A site's data set: order, patients and digest depend on content alone, and the cache on nothing else."""

import dataclasses
import errno
import gzip
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import client.dataset
from client.dataset import VolumeDataset
from client.preprocess import preprocess
from client.site_config import Selection, SiteConfig
from common.errors import (
    ArtifactError,
    DataError,
    DuplicatePatientError,
    EmptyDatasetError,
    NonFiniteVolumeError,
    UnreadableVolumeError,
)
from common.volume.nifti import write_label_map, write_volume
from common.volume.spec import VolumeSpec

SPEC = VolumeSpec(shape=(8, 6, 4), spacing_mm=(1, 1, 1))
DCE = VolumeSpec(shape=(8, 6, 4), spacing_mm=(1, 1, "keep"), channels=("pre", "early", "late"))


def write(path: Path, seed: int, shape=(9, 6, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).random(shape, dtype=np.float32) * 500
    path.write_bytes(gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes(), compresslevel=1, mtime=0))
    return path


def a_site(folder: Path, **changes) -> SiteConfig:
    return SiteConfig(**{"name": "alder", "data": folder / "data", "state": folder / "state", **changes})


@pytest.fixture
def site(tmp_path) -> SiteConfig:
    """Three exams of two patients, with a table."""
    for seed, name in enumerate(("b", "a", "c 1")):
        write(tmp_path / "data" / f"{name}.nii.gz", seed)
    (tmp_path / "patients.csv").write_text("file,patient,class\nb,p1,1\na,p2,0\nc 1,p1,1\n")
    return a_site(tmp_path, patients=tmp_path / "patients.csv")


def cached(site: SiteConfig) -> list[Path]:
    return sorted(site.cache_folder.glob("*.safetensors"))


def test_volumes_patients_and_classes_come_in_the_order_of_the_exams(site) -> None:
    dataset = VolumeDataset.open(site, SPEC)
    assert [exam.exam for exam in dataset.exams] == ["a", "b", "c 1"]
    assert dataset.patients == ("p2", "p1", "p1")
    assert [exam.class_label for exam in dataset.exams] == [0, 1, 1]
    assert dataset.num_patients == 2
    volumes = dataset.volumes()
    assert volumes.shape == (3, 1, 8, 6, 4)
    for volume, exam in zip(volumes, dataset.exams, strict=True):
        assert torch.equal(volume, preprocess(exam.files, None, SPEC).volume)


def test_without_a_table_every_exam_is_its_own_patient(site) -> None:
    dataset = VolumeDataset.open(site.model_copy(update={"patients": None}), SPEC)
    assert dataset.patients == ("a", "b", "c 1")
    assert {exam.class_label for exam in dataset.exams} == {None}


def test_what_the_study_wrote_the_study_reads(tmp_path) -> None:
    # A synthetic volume comes back as it was decoded: to its percentiles, which the fixed contents
    # 0.5 % and 99.5 % of a two-valued volume are.
    volume = torch.where(torch.rand(3, 8, 6, 4, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, -1.0)
    labels = torch.randint(0, 5, (8, 6, 4), generator=torch.Generator().manual_seed(1))
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    write_volume(tmp_path / "data" / "images" / "case_0000", volume, DCE)
    write_label_map(tmp_path / "data" / "labels" / "case_0000", labels, DCE)
    dataset = VolumeDataset.open(a_site(tmp_path), DCE)
    assert dataset.patients == ("case_0000",)
    assert torch.equal(dataset.volumes()[0], volume)
    assert torch.equal(dataset.label_maps()[0], labels)


def test_the_second_opening_opens_no_volume(site, monkeypatch) -> None:
    first = VolumeDataset.open(site, SPEC).volumes()
    monkeypatch.setattr(client.dataset, "preprocess", None)
    assert torch.equal(VolumeDataset.open(site, SPEC).volumes(), first)


def test_each_spec_has_its_own_cache_entries(site) -> None:
    small = SPEC.model_copy(update={"shape": (4, 4, 4)})
    first, other = VolumeDataset.open(site, SPEC), VolumeDataset.open(site, small)
    assert len(cached(site)) == 6
    assert first.digest != other.digest
    assert other.volumes().shape == (3, 1, 4, 4, 4)
    assert first.volumes().shape == (3, 1, 8, 6, 4)


def test_a_damaged_cache_entry_is_made_again(site) -> None:
    dataset = VolumeDataset.open(site, SPEC)
    expected = dataset.volumes()
    first, second, third = cached(site)
    first.write_bytes(first.read_bytes()[:-10])
    second.write_bytes(b"")
    third.unlink()
    assert torch.equal(dataset.volumes(), expected)
    assert torch.equal(VolumeDataset.open(site, SPEC).volumes(), expected)


def test_the_digest_follows_the_content_not_the_place_or_the_date(site, tmp_path) -> None:
    digest = VolumeDataset.open(site, SPEC).digest
    shutil.copytree(site.data, tmp_path / "moved" / "data")
    for path in (tmp_path / "moved" / "data").iterdir():
        os.utime(path, (1, 1))
    assert VolumeDataset.open(a_site(tmp_path / "moved", patients=site.patients), SPEC).digest == digest


def test_a_new_name_that_changes_nothing_else_keeps_the_digest(site) -> None:
    digest = VolumeDataset.open(site, SPEC).digest
    (site.data / "a.nii.gz").rename(site.data / "aa.nii")
    site.patients.write_text(site.patients.read_text().replace("a,p2", "aa,p2"))
    assert VolumeDataset.open(site, SPEC).digest == digest


def _replace(site: SiteConfig) -> None:
    write(site.data / "a.nii.gz", seed=77)


def _remove(site: SiteConfig) -> None:
    (site.data / "a.nii.gz").unlink()
    site.patients.write_text("file,patient,class\nb,p1,1\nc 1,p1,1\n")


def _add(site: SiteConfig) -> None:
    write(site.data / "d.nii.gz", seed=78)
    site.patients.write_text(site.patients.read_text() + "d,p3,0\n")


def _other_patient(site: SiteConfig) -> None:
    site.patients.write_text(site.patients.read_text().replace("a,p2", "a,p1"))


def _other_class(site: SiteConfig) -> None:
    site.patients.write_text(site.patients.read_text().replace("p2,0", "p2,1"))


def _exchange_names(site: SiteConfig) -> None:
    # The same files and patients in another order: latents cached by digest would be mixed up.
    for before, after in (("a", "x"), ("b", "a"), ("x", "b")):
        (site.data / f"{before}.nii.gz").rename(site.data / f"{after}.nii.gz")
    site.patients.write_text("file,patient,class\na,p1,1\nb,p2,0\nc 1,p1,1\n")


@pytest.mark.parametrize(
    "change",
    [_replace, _remove, _add, _other_patient, _other_class, _exchange_names],
    ids=lambda f: f.__name__,
)
def test_the_digest_changes_with_the_data(site, change) -> None:
    digest = VolumeDataset.open(site, SPEC).digest
    change(site)
    assert VolumeDataset.open(site, SPEC).digest != digest


def test_a_selection_opens_only_its_own_files(tmp_path) -> None:
    write(tmp_path / "data" / "a.nii.gz", 0)
    (tmp_path / "data" / "b.nii.gz").write_bytes(b"not mine to judge")
    (tmp_path / "p.csv").write_text("file,patient,site,part\na,p1,north,generator\nb,p2,south,test\n")
    site = a_site(tmp_path, patients=tmp_path / "p.csv", select=Selection(site="north"))
    assert VolumeDataset.open(site, SPEC).patients == ("p1",)
    with pytest.raises(UnreadableVolumeError, match=r"b\.nii\.gz is not a NIfTI file"):
        VolumeDataset.open(site.model_copy(update={"select": Selection(part=("test",))}), SPEC)


def test_bad_files_are_found_at_opening_and_leave_no_entry(site) -> None:
    voxels = np.ones((9, 6, 3), dtype=np.float32)
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), site.data / "b.nii.gz")
    with pytest.raises(NonFiniteVolumeError, match=r"b\.nii\.gz has 1 of 162"):
        VolumeDataset.open(site, SPEC)
    assert len(cached(site)) == 1, "only a, which was whole"
    write(site.data / "b.nii.gz", seed=0)
    assert len(VolumeDataset.open(site, SPEC).volumes()) == 3


def test_an_empty_folder_is_refused(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(EmptyDatasetError, match="holds no NIfTI file"):
        VolumeDataset.open(a_site(tmp_path), SPEC)
    assert not (tmp_path / "state").exists()


def test_one_image_under_two_patients_is_refused(site) -> None:
    shutil.copy(site.data / "a.nii.gz", site.data / "b.nii.gz")  # of p2 and p1
    with pytest.raises(
        DuplicatePatientError, match=r"a\.nii\.gz and .*b\.nii\.gz are the same image, but of"
    ):
        VolumeDataset.open(site, SPEC)
    shutil.copy(write(site.data / "b.nii.gz", seed=0), site.data / "c 1.nii.gz")  # both of p1
    assert VolumeDataset.open(site, SPEC).num_patients == 2


def test_a_file_that_changes_during_training_stops_it(site) -> None:
    dataset = VolumeDataset.open(site, SPEC)
    shutil.rmtree(site.cache_folder)
    site.cache_folder.mkdir()
    write(site.data / "b.nii.gz", seed=5)
    with pytest.raises(DataError, match="files of exam b changed while they were in use"):
        dataset.volumes()
    assert len(cached(site)) == 1


def test_label_maps_follow_the_exams_and_a_missing_one_is_named(tmp_path) -> None:
    for seed, name in enumerate(("b", "a")):
        write(tmp_path / "data" / "images" / f"{name}.nii.gz", seed)
        labels = np.full((9, 6, 3), seed + 1, dtype=np.uint8)
        (tmp_path / "data" / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "data" / "labels" / f"{name}.nii.gz")
    maps = VolumeDataset.open(a_site(tmp_path), SPEC).label_maps()
    assert maps.shape == (2, 8, 6, 4)
    # 9 voxels along x are cut to 8, 3 along z are filled to 4: one slice of padding is 0.
    assert [sorted(m.unique().tolist()) for m in maps] == [[0, 2], [0, 1]]
    assert [int((m == 0).sum()) for m in maps] == [8 * 6, 8 * 6]
    (tmp_path / "data" / "labels" / "b.nii.gz").unlink()
    with pytest.raises(DataError, match="1 of 2 exams have no label map, such as b"):
        VolumeDataset.open(a_site(tmp_path), SPEC).label_maps()


def test_an_exchanged_label_map_is_noticed(tmp_path) -> None:
    write(tmp_path / "data" / "images" / "a.nii.gz", 0)
    (tmp_path / "data" / "labels").mkdir()
    digests = set()
    for label in (1, 2):
        labels = np.full((9, 6, 3), label, dtype=np.uint8)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "data" / "labels" / "a.nii.gz")
        dataset = VolumeDataset.open(a_site(tmp_path), SPEC)
        assert int(dataset.label_maps().max()) == label
        digests.add(dataset.digest)
    assert len(digests) == 2


def test_a_full_disk_stops_the_opening_with_one_line(site, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="No space left on device"):
            VolumeDataset.open(site, SPEC)
    assert not list(site.cache_folder.iterdir())
    assert len(VolumeDataset.open(site, SPEC).volumes()) == 3


def test_a_dataset_cannot_be_changed(site) -> None:
    dataset = VolumeDataset.open(site, SPEC)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.exams = ()
    dataset.volumes().zero_()
    assert float(dataset.volumes().max()) == 1, "each call returns tensors of its own"
