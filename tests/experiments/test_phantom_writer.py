import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.errors import ArtifactError, RunError
from experiments.phantom import writer
from experiments.phantom.exam import appointments, make_exam
from experiments.phantom.hospital import HOSPITALS, Hospital, Population
from experiments.phantom.writer import write_hospital

SEED = 5


def _small(template: Hospital, count: int = 3) -> Hospital:
    """Return a hospital that is quick to write; every patient has two exams."""
    scanner = template.scanner.model_copy(update={"shape": (22, 24, 26), "spacing_mm": (7.5, 7.0, 6.5)})
    population = Population(both_breasts_rate=1.0, lesion_rate=0.5)
    return Hospital(name=template.name, scanner=scanner, population=population, num_patients=count)


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_set_has_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_hospital(_small(HOSPITALS[0]), tmp_path / name, SEED)
    digests = _digests(tmp_path / "one")
    assert digests == _digests(tmp_path / "two")
    assert len(digests) == 6 * 4 + 2  # three phases and labels of six exams, the table, phantom.json


def test_more_patients_leave_the_first_ones_as_they_were(tmp_path):
    write_hospital(_small(HOSPITALS[0], 2), tmp_path / "few", SEED)
    write_hospital(_small(HOSPITALS[0], 3), tmp_path / "many", SEED)
    few, many = _digests(tmp_path / "few"), _digests(tmp_path / "many")
    for name in few:
        assert name in {"patients.csv", "phantom.json"} or few[name] == many[name]


@pytest.mark.parametrize("template", HOSPITALS, ids=lambda h: h.scanner.orientation)
def test_files_hold_the_exam_in_the_scanners_orientation(tmp_path, template):
    hospital = _small(template, 1)
    write_hospital(hospital, tmp_path / "set", SEED)
    for appointment in appointments(hospital, 0, SEED):
        exam = make_exam(appointment)
        files = [tmp_path / "set" / "images" / f"{appointment.name}_{phase:04d}.nii.gz" for phase in range(3)]
        files.append(tmp_path / "set" / "labels" / f"{appointment.name}.nii.gz")
        for path, expected in zip(files, [*exam.channels, exam.labels], strict=True):
            stored = nib.load(path)
            assert "".join(nib.aff2axcodes(stored.affine)) == template.scanner.orientation
            assert stored.header.get_xyzt_units()[0] == "mm"
            ras = nib.as_closest_canonical(stored)
            np.testing.assert_allclose(ras.header.get_zooms(), hospital.scanner.spacing_mm, rtol=1e-6)
            np.testing.assert_allclose(ras.affine, exam.affine, atol=1e-4)
            np.testing.assert_array_equal(np.asarray(ras.dataobj), expected)


def test_table_names_every_exam_its_patient_and_its_class(tmp_path):
    hospital = _small(HOSPITALS[0])
    write_hospital(hospital, tmp_path / "set", SEED)
    with (tmp_path / "set" / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "patient", "class"]
    stems = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "set" / "labels").iterdir()}
    assert {row["file"] for row in rows} == stems
    assert sorted({row["patient"] for row in rows}) == ["north-000", "north-001", "north-002"]
    assert len(rows) == 6
    for row in rows:
        labels = np.asarray(nib.load(tmp_path / "set" / "labels" / f"{row['file']}.nii.gz").dataobj)
        assert row["class"] == str(int((labels == 8).any()))
    assert {row["class"] for row in rows} == {"0", "1"}


def test_the_same_set_is_not_written_again(tmp_path, monkeypatch):
    write_hospital(_small(HOSPITALS[0]), tmp_path / "set", SEED)
    monkeypatch.setattr(writer, "make_exam", lambda _: pytest.fail("an exam was made"))
    write_hospital(_small(HOSPITALS[0]), tmp_path / "set", SEED)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    write_hospital(_small(HOSPITALS[0], 1), tmp_path / "set", SEED)
    assert json.loads((tmp_path / "set" / "phantom.json").read_text())["seed"] == SEED


def _other_seed(folder):
    write_hospital(_small(HOSPITALS[0], 1), folder, SEED + 1)


def _other_hospital(folder):
    write_hospital(_small(HOSPITALS[1], 1), folder, SEED)


def _somebodys_file(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("three years of work")


def _broken_identity(folder):
    folder.mkdir()
    (folder / "phantom.json").write_text("{")


def _a_file(folder):
    folder.write_text("not a folder")


@pytest.mark.parametrize("occupy", [_other_seed, _other_hospital, _somebodys_file, _broken_identity, _a_file])
def test_a_folder_with_something_else_is_refused_and_kept(tmp_path, occupy):
    occupy(tmp_path / "set")
    before = _digests(tmp_path)
    with pytest.raises(RunError, match="north of seed 5"):
        write_hospital(_small(HOSPITALS[0], 1), tmp_path / "set", SEED)
    assert _digests(tmp_path) == before


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    real, calls = Path.write_bytes, []

    def fills_up(self, content):
        calls.append(self)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", fills_up)
    with pytest.raises(ArtifactError, match="No space left"):
        write_hospital(_small(HOSPITALS[0]), tmp_path / "set", SEED)
    assert list(tmp_path.iterdir()) == []
