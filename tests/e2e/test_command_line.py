"""The command as a person uses it: the whole story, and every kind of bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from command_line import fedvox, refused
from small_federation import small_study, write_volumes


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One small study run to its end by the command, with Flower's simulation engine."""
    folder = tmp_path_factory.mktemp("story")
    for seed, site in enumerate(("a", "b")):
        write_volumes(folder / "data" / site, 3, seed)
    (folder / "data" / "a" / "patients.csv").write_text("file,patient\np0-0,x\np0-1,x\np0-2,y\n")
    # MS-SSIM of three scales needs 28 voxels a side.
    study = small_study(volume__shape=[28, 28, 28])
    (folder / "small.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    result = fedvox("study", "run", "small.yaml", "--data", "data", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_a_study_runs_to_its_end_and_leaves_what_a_person_looks_at(story):
    folder, status = story
    assert status["state"] == "finished"
    run = folder / "runs" / "small"
    for name in ("report.html", "metrics.json", "synthetic/manifest.json", "montages/comparison.png"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").iterdir())
    page = (run / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']https?://""", page)


def test_synth_is_reproducible_says_how_it_was_made_and_carries_geometry(story):
    folder, _ = story
    for out in ("one", "two"):
        words = ("synth", "--run", "runs/small", "--num", "3", "--out", out, "--seed", "7")
        assert fedvox(*words, cwd=folder).returncode == 0
    manifest = json.loads((folder / "one" / "manifest.json").read_text())
    assert manifest == json.loads((folder / "two" / "manifest.json").read_text())
    assert manifest["differential_privacy"] is None
    assert len(manifest["volumes"]) == 3
    image = nib.load(folder / "one" / manifest["volumes"][0]["files"][0]["file"])
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == (1.0, 1.0, 1.0)
    voxels = np.asarray(image.dataobj)
    assert 0 <= voxels.min() < voxels.max() <= 1000


def test_a_longer_set_begins_with_the_shorter_one(story):
    folder, _ = story
    for num in ("2", "5"):
        words = ("synth", "--run", "runs/small", "--num", num, "--out", f"set{num}", "--seed", "1")
        assert fedvox(*words, "--json", cwd=folder).returncode == 0
    manifests = [json.loads((folder / f"set{num}" / "manifest.json").read_text()) for num in (2, 5)]
    assert [v["files"] for v in manifests[0]["volumes"]] == [v["files"] for v in manifests[1]["volumes"][:2]]


def test_evaluate_judges_unseen_patients(story):
    folder, _ = story
    write_volumes(folder / "unseen", 3, seed=9)
    words = ("evaluate", "--run", "runs/small", "--data", "unseen", "--synthetic", "runs/small/synthetic")
    result = fedvox(*words, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert metrics["reconstruction"]["patients"] == 3
    assert metrics["synthetic"]["distances"].keys() == {"random_conv", "descriptor"}


def test_a_finished_run_is_left_as_it_is(story):
    folder, _ = story
    before = (folder / "runs" / "small" / "events.jsonl").read_bytes()
    for words in (
        ("study", "run", "small.yaml", "--data", "data"),
        ("study", "resume", "--run", "runs/small"),
    ):
        assert fedvox(*words, "--json", cwd=folder).returncode == 0
    assert (folder / "runs" / "small" / "events.jsonl").read_bytes() == before


def test_what_a_log_keeps_of_the_progress_are_whole_lines(story):
    folder, _ = story
    result = fedvox("study", "status", "--run", "runs/small", "--watch", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1].endswith("sent and received")
    assert result.stderr.endswith("\n")


def test_another_study_does_not_overwrite_a_run(story):
    folder, _ = story
    other = small_study(volume__shape=[28, 28, 28], seed=99)
    (folder / "other.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json")))
    words = ("study", "run", "other.yaml", "--data", "data", "--name", "small")
    refused(fedvox(*words, cwd=folder), "belongs to another study", "--name")


def test_changed_data_does_not_continue_a_run(story, tmp_path):
    folder, _ = story
    image = next((folder / "data" / "a").glob("*.nii.gz"))
    kept = image.read_bytes()
    nib.save(nib.Nifti1Image(np.random.default_rng(5).normal(size=(8, 8, 8)), np.eye(4)), image)
    try:
        refused(fedvox("study", "resume", "--run", "runs/small", cwd=folder), "other data")
    finally:
        image.write_bytes(kept)


BAD_DATA = {
    "empty": (lambda folder: [p.unlink() for p in folder.iterdir()], "no NIfTI"),
    "truncated": (lambda folder: _edit(folder, lambda b: b[: len(b) // 2]), "truncated"),
    "not nifti": (lambda folder: _edit(folder, lambda _: b"hello"), "not"),
    "nan": (lambda folder: _save(folder, np.full((8, 8, 8), np.nan)), "NaN or infinite"),
    "2d": (lambda folder: _save(folder, np.random.default_rng(0).normal(size=(8, 8))), "single image"),
    "4d": (lambda folder: _save(folder, np.random.default_rng(0).normal(size=(8, 8, 8, 3))), "4 axes"),
    "table": (lambda folder: (folder / "patients.csv").write_text("file,patient\np0-0,x\n"), "p0-1"),
}


def _edit(folder, change):
    path = sorted(folder.glob("*.nii.gz"))[0]
    path.write_bytes(change(path.read_bytes()))


def _save(folder, voxels):
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), sorted(folder.glob("*.nii.gz"))[0])


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_gets_one_clear_line_and_leaves_nothing(tmp_path, kind):
    spoil, message = BAD_DATA[kind]
    for seed, site in enumerate(("a", "b")):
        write_volumes(tmp_path / "data" / site, 2, seed)
    spoil(tmp_path / "data" / "a")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_study().model_dump(mode="json")))
    refused(fedvox("study", "run", "small.yaml", "--data", "data", cwd=tmp_path), message)
    assert not (tmp_path / "runs" / "small").exists()


def test_a_patient_at_two_sites_is_refused(tmp_path):
    for site in ("a", "b"):
        write_volumes(tmp_path / "data" / site, 2, seed=0)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_study().model_dump(mode="json")))
    result = fedvox("study", "check", "small.yaml", "--data", "data", cwd=tmp_path)
    refused(result, "patient p0-0 is at sites a and b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": {"shpe": [8, 8, 8]}}, "did you mean 'shape'"),
        ({"volume": {"shape": [9, 8, 8], "spacing_mm": [1, 1, 1]}}, "does not divide"),
        ({"sites": 1}, "unknown key"),
    ],
)
def test_a_bad_study_gets_one_clear_line(tmp_path, change, message):
    content = small_study().model_dump(mode="json") | change
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    refused(fedvox("study", "check", "small.yaml", cwd=tmp_path), message)


def test_the_installed_command_answers(tmp_path):
    command = [Path(sys.executable).parent / "fedvox", "study", "status", "--run", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    refused(result, "not a run folder")


def test_wrong_usage_is_exit_2(tmp_path):
    assert fedvox("synth", cwd=tmp_path).returncode == 2
    assert fedvox("nonsense", cwd=tmp_path).returncode == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    refused(fedvox("study", "status", "--run", ".", cwd=tmp_path), "not a run folder")


def test_init_writes_a_study_that_checks(tmp_path):
    assert (
        fedvox("study", "init", "mine.yaml", "--site", "north", "--site", "south", cwd=tmp_path).returncode
        == 0
    )
    result = fedvox("study", "check", "mine.yaml", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["study"]["sites"] == "north, south"
    refused(fedvox("study", "init", "mine.yaml", cwd=tmp_path), "exists")


def test_a_comparison_that_was_never_run_or_does_not_exist_is_refused(tmp_path):
    refused(fedvox("experiment", "table", "baselines", cwd=tmp_path), "fedvox experiment run baselines")
    refused(fedvox("experiment", "table", "nonsense", cwd=tmp_path), "known: baselines")
    words = ("experiment", "run", "baselines", "--data", ".", "--study", "nonsense")
    refused(fedvox(*words, cwd=tmp_path), "known: hippocampus, breast_dce")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("privacy-utility", "--study", "hippocampus"), "has no single studies"),
        (("baselines", "--smoke"), "has no smoke version"),
        (("baselines", "--arm", "scratch"), "has no arms to choose"),
        (("privacy-utility", "--arms-from", "elsewhere.json"), "has no arms to choose"),
        (("baselines", "--study", "liver"), "known: hippocampus, breast_dce"),
    ],
)
def test_an_option_that_a_comparison_has_no_use_for_is_refused(tmp_path, words, message):
    refused(fedvox("experiment", "run", *words, "--data", tmp_path, cwd=tmp_path), message)
    assert not any(tmp_path.iterdir())
