"""Nobody who is tested was seen before, by whatever name; a generator knows its own patients, no others."""

import dataclasses

import nibabel as nib
import pytest
from segmentation_place import PATIENTS, SITES, bench_at, make_place, rows
from small_federation import small_study

from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.errors import DataError
from experiments.segmentation.cohort import Cohort, LeakageError, refuse_leakage
from server.run_folder import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("leakage"))


@pytest.fixture
def cohorts(place):
    bench = bench_at(place)
    return {part: bench.cohort(part) for part in PATIENTS}


def test_nobody_who_is_tested_was_seen_before(place, cohorts):
    others = [cohorts[part] for part in ("generator", "labelled", "validation")]
    refuse_leakage(cohorts["test"], others, {"federated": place / "runs" / "run"}, cohorts["generator"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("part", ["generator", "labelled", "validation"])
def test_a_test_patient_in_another_set_stops_the_experiment_by_either_side(cohorts, part, side):
    """The other set has one side alone: it is the same person."""
    exams = cohorts["test"].datasets[0].exams
    planted = dataclasses.replace(
        cohorts["test"].datasets[0], exams=tuple(e for e in exams if e.exam.endswith(f"0-{side}"))
    )
    cohort = Cohort(part, (*cohorts[part].datasets, planted), ())
    with pytest.raises(LeakageError, match=f"1 test patients are among the {part} patients, such as atest0"):
        refuse_leakage(cohorts["test"], [cohort], {}, cohorts["generator"])


def test_a_test_patient_s_image_under_another_name_stops_the_experiment(cohorts):
    dataset = cohorts["test"].datasets[0]
    renamed = tuple(dataclasses.replace(exam, patient="somebody else") for exam in dataset.exams)
    cohort = Cohort("generator", (dataclasses.replace(dataset, exams=renamed),), ())
    with pytest.raises(LeakageError, match="2 test patients are among the generator patients"):
        refuse_leakage(cohorts["test"], [cohort], {}, cohorts["generator"])


def test_a_test_patient_s_image_in_another_file_stops_the_experiment(place, cohorts, tmp_path):
    """Compressed anew under another name: no byte of the file tells, its voxels do."""
    exam = next(exam for exam, *_, part in rows() if part == "test")
    image = nib.load(place / "data" / "volumes" / "images" / f"{exam}.nii.gz")
    (tmp_path / "shared").mkdir()
    nib.save(image, tmp_path / "shared" / "who.nii")
    site = SiteConfig(name="x", data=tmp_path / "shared", one_exam_per_patient=True, state=tmp_path / "state")
    copied = Cohort("shared", (VolumeDataset.open(site, small_study(SITES).volume),), ())
    assert not copied.patient_of_image.keys() & cohorts["test"].patient_of_image.keys()
    with pytest.raises(LeakageError, match="1 test patients are among the shared patients"):
        refuse_leakage(cohorts["test"], [copied], {}, cohorts["generator"])


def test_a_generator_that_saw_a_test_patient_stops_the_experiment(place, cohorts, tmp_path):
    seen = sorted(cohorts["test"].patient_of_image)[:1]
    run = tmp_path / "run"
    RunFolder.create_or_resume(run, small_study(SITES), source={"sites": {}, "images": seen})
    with pytest.raises(LeakageError, match="1 test patients are among the generator of federated"):
        refuse_leakage(cohorts["test"], [], {"federated": run}, cohorts["generator"])


@pytest.mark.parametrize("part", ["labelled", "validation"])
def test_a_generator_that_learned_from_others_than_the_generator_patients_stops_it(cohorts, tmp_path, part):
    """It would know the few labelled patients, whom the arm with real volumes does not know."""
    own = [sorted(cohorts[name].patient_of_image)[0] for name in ("generator", part)]
    strangers = {"sites": {}, "images": own}
    RunFolder.create_or_resume(tmp_path / "run", small_study(SITES), source=strangers)
    with pytest.raises(LeakageError, match="federated learned from 1 images that are not of the generator"):
        refuse_leakage(cohorts["test"], [], {"federated": tmp_path / "run"}, cohorts["generator"])
    public = {"sites": {}, "images": own[:1], "public_images": own[1:]}
    RunFolder.create_or_resume(tmp_path / "from public", small_study(SITES), source=public)
    refuse_leakage(cohorts["test"], [], {"private": tmp_path / "from public"}, cohorts["generator"])


def test_a_public_model_that_saw_a_test_patient_stops_the_experiment(cohorts, tmp_path):
    source = {"sites": {}, "images": [], "public_images": sorted(cohorts["test"].patient_of_image)[:1]}
    RunFolder.create_or_resume(tmp_path / "run", small_study(SITES), source=source)
    with pytest.raises(LeakageError, match="1 test patients are among the generator of private"):
        refuse_leakage(cohorts["test"], [], {"private": tmp_path / "run"}, cohorts["generator"])


def test_a_generator_that_does_not_say_whom_it_saw_is_refused(cohorts, tmp_path):
    RunFolder.create_or_resume(tmp_path / "run", small_study(SITES), source={"sites": {}})
    with pytest.raises(DataError, match="does not say which images"):
        refuse_leakage(cohorts["test"], [], {"federated": tmp_path / "run"}, cohorts["generator"])


def test_a_private_generator_that_does_not_say_what_its_public_model_saw_is_refused(
    cohorts, tmp_path, monkeypatch
):
    private = small_study(SITES).model_copy(update={"privacy": "some"})
    RunFolder.create_or_resume(tmp_path / "run", small_study(SITES), source={"sites": {}, "images": []})
    refuse_leakage(cohorts["test"], [], {"federated": tmp_path / "run"}, cohorts["generator"])
    monkeypatch.setattr(RunFolder, "study", lambda _: private)
    with pytest.raises(DataError, match="does not say which images"):
        refuse_leakage(cohorts["test"], [], {"private": tmp_path / "run"}, cohorts["generator"])
