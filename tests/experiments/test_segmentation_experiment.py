"""A whole experiment on tiny volumes: who is pretrained on what, who is tested, what is said of it."""

import dataclasses
import importlib.metadata
import json
import math
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet
from segmentation_place import CPU, PLAN, SITES, bench_at, make_place, rows
from small_federation import Federation, small_study

from common.artifact import read_manifest, read_tensor_folder
from common.errors import ConfigError, DataError
from experiments.segmentation import basis
from experiments.segmentation.analysis import table_of
from experiments.segmentation.cohort import LeakageError
from experiments.segmentation.compare import compare_arms
from experiments.segmentation.export import export_weights
from experiments.segmentation.jobs import (
    by_patient,
    fine_tunings,
    pretrainings,
    syntheses,
    timed,
)
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.plot import plot_segmentation
from experiments.segmentation.sources import Noise, OneVolume, Phantoms, Real, Synthetic, public_hospital
from experiments.segmentation.table import segmentation_latex, segmentation_text, setting
from experiments.segmentation.teaching import labelled_exams
from server.released_model import load_released_model
from server.run_folder import RunFolder
from server.synthesis import synthesize

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("segmentation"))


def test_the_whole_experiment_runs_says_what_is_missing_and_is_not_computed_twice(place):
    said = []
    bench = bench_at(place)
    compared = compare_arms(bench, 1, said.append)
    found = compared.results
    assert found["missing_arms"] == ["local"]
    assert "not there" in said[0]
    arms = ["scratch", "noise", "federated", "one volume", "real"]
    for num in ("1", "2"):
        assert list(found["labels"][num]["arms"]) == arms
        difference = found["labels"][num]["differences"]["federated - scratch"]
        assert difference["paired_t"]["low"] <= difference["estimate"] <= difference["paired_t"]["high"]
    assert found["labels"]["1"]["differences"]["federated - scratch"]["holm_p_value"] is None
    assert found["labels"]["2"]["differences"]["federated - scratch"]["holm_p_value"] is not None
    assert found["test_patients"] == 4
    assert found["real_volumes"] == 12  # exams: both sides of 3 patients of 2 sites
    assert {site: of["patients"] for site, of in found["sites"].items()} == {"a": 2, "b": 2}
    text = json.dumps(found)
    assert not any(patient in text for _, patient, *_ in rows())  # their names stay where they are
    for shown in (segmentation_text(found), segmentation_latex(found)):
        assert "Missing, having no generator here or not being asked for: local." in shown
        assert "counts what is missing as if it had shown nothing" in shown
        assert "in another order" not in shown
        assert "federated - scratch" in shown
        assert "Dice at a (2 patients)" in shown
        assert "weak" not in shown
    every_real_one = {"real_volumes": 4, "seeds": found["seeds"] | {"sampling": 2}}
    shown = segmentation_text(found | every_real_one)
    assert "There are 4 real volumes: the sets of the arm real are the same volumes in another order" in shown
    assert "shown nothing" not in segmentation_text(found | {"standing": "descriptive"})
    for shown in map(segmentation_text, [found | {"weak_labels": True}]):
        assert "**1 labelled patient, weak labels**" in shown
        assert "The labels are weak" in shown
    compared.write(place / "results", "tiny")
    lines = (place / "results" / "tiny.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == [one["arm"] for one in compared.figures]
    assert len(lines) == 2 * 2 * len(arms)
    plot_segmentation(found, place / "gains.png")
    assert (place / "gains.png").read_bytes().startswith(b"\x89PNG")
    finished = len(said)
    again = compare_arms(bench, 1, said.append).results
    assert len(said) == finished + 1  # what is missing, and no job
    assert again["labels"] == found["labels"]
    folder = next((place / "experiment").glob("*/pretrained/federated-*-p0-v0"))
    assert read_manifest(folder)["arm"] == "federated"
    assert "convInit.conv.weight" in read_tensor_folder(folder)[0]["backbone"]


def test_a_plan_s_jobs_are_crossed_and_the_primary_number_of_labels_comes_first(place):
    bench = bench_at(place, pretraining_seeds=5, sampling_seeds=2, seeds=20, arms=PLAN["arms"][:3])
    plan = bench.plan
    pairs = [plan.pretraining_of(seed) for seed in range(20)]
    assert {pairs.count(pair) for pair in set(pairs)} == {2}
    assert len(set(pairs)) == 10
    jobs = fine_tunings(bench)
    assert [job.num_labels for job in jobs] == [1] * 60 + [2] * 60
    assert len({job.name for job in jobs}) == len(jobs)
    assert [job.name.rpartition("-")[2] for job in syntheses(bench)] == ["v0", "v1"]
    networks = {job.name for job in pretrainings(bench)}
    assert len(networks) == 2 * 10
    assert not any("scratch" in name for name in networks)


def test_other_numbers_of_labels_may_have_fewer_seeds(place):
    bench = bench_at(place, seeds=4, secondary_seeds=2, arms=PLAN["arms"][:2])
    assert [job.num_labels for job in fine_tunings(bench)] == [1] * 8 + [2] * 4
    found = compare_arms(dataclasses.replace(bench, folder=place / "fewer"), 1, lambda _: None).results
    assert "4 fine-tunings of every arm (2 with other numbers of labelled patients)" in setting(found)
    sizes = {num: table_of(bench.plan, fine_tuned(place / "fewer"), num, "noise").shape[:2] for num in (1, 2)}
    assert sizes == {1: (2, 2), 2: (2, 1)}
    assert found["core_hours"] >= 0
    assert found["seeds"]["fine_tuning_of_others"] == 2


def test_scratch_with_other_luck_has_the_same_patients_and_is_no_gain(place):
    """The null that a real comparison can be held against: arms that differ in nothing that could help."""
    again = {"name": "scratch again", "source": "scratch", "draw": 1}
    bench = bench_at(place, arms=[PLAN["arms"][0], again], seeds=8, labels=[1], standing="secondary")
    compared = compare_arms(dataclasses.replace(bench, folder=place / "null"), 1, lambda _: None)
    (difference,) = compared.results["labels"]["1"]["differences"].values()
    assert difference["paired_t"]["low"] < 0 < difference["paired_t"]["high"]
    assert not difference["improves"]
    scores = {"scratch": [], "scratch again": []}
    for one in compared.figures:
        scores[one["arm"]].append(one["scores"])
    assert scores["scratch"] != scores["scratch again"]


def test_other_numbers_of_labels_may_have_fewer_arms(place):
    arms = [arm for arm in PLAN["arms"] if arm["name"] in ("scratch", "noise", "real")]
    bench = bench_at(place, arms=arms, secondary_arms=["scratch", "noise"])
    jobs = [(job.num_labels, job.arm.name) for job in fine_tunings(bench)]
    assert {arm for num, arm in jobs if num == 2} == {"scratch", "noise"}
    assert {arm for num, arm in jobs if num == 1} == {"scratch", "noise", "real"}
    whole = dataclasses.replace(bench, folder=place / "fewer arms")
    alone = compare_arms(whole, 1, lambda _: None, only=["real"])
    assert list(alone.results["labels"]) == ["1"]
    found = compare_arms(whole, 1, lambda _: None, earlier=alone).results
    assert list(found["labels"]["2"]["arms"]) == ["scratch", "noise"]
    assert list(found["labels"]["2"]["differences"]) == ["noise - scratch"]
    assert "real" in found["labels"]["1"]["arms"]
    plot_segmentation(found, place / "fewer arms.png")
    assert (place / "fewer arms.png").is_file()


def test_a_job_says_how_long_its_core_worked():
    found = timed(0.2, lambda seconds, _: busy_for(seconds), None)
    assert found["done"]
    assert 0.2 <= found["seconds"] < 0.4


def busy_for(seconds):
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass
    time.sleep(seconds)  # waiting is not counted
    return {"done": True}


def fine_tuned(folder):
    return [json.loads(file.read_text()) for file in folder.rglob("jobs/fine-tuning/*.json")]


def test_labelled_patients_are_drawn_by_the_seed_one_exam_each_and_small_sets_lie_in_larger_ones(place):
    labelled = bench_at(place).cohort("labelled")
    drawn = {num: [labelled_exams(labelled, num, seed) for seed in range(20)] for num in (1, 2, 4)}
    for num, chosen in drawn.items():
        assert all(len({labelled.patients[index] for index in exams}) == num for exams in chosen)
    assert all(set(one) <= set(two) for one, two in zip(drawn[1], drawn[2], strict=True))
    assert len({tuple(exams) for exams in drawn[1]}) > 1
    with pytest.raises(DataError, match="5 labelled patients are wanted of 4"):
        labelled_exams(labelled, 5, 0)


def test_both_sides_of_a_patient_are_one_patient():
    values = torch.tensor([[0.2, 1.0], [0.4, torch.nan], [0.9, 0.5]])
    assert by_patient(values, ("b", "b", "a")) == [
        pytest.approx([0.9, 0.5]),
        pytest.approx([0.3, 1.0]),
    ]
    assert by_patient(torch.tensor([[1 / 3, torch.inf, torch.nan]]), ("a",))[0][:2] == [0.333333, math.inf]


def test_networks_of_another_run_other_volumes_or_another_study_are_not_taken_for_these(place, tmp_path):
    bench = bench_at(place)
    longer = bench.study.model_copy(update={"seed": bench.study.seed + 1})
    assert dataclasses.replace(bench, study=longer).work != bench.work
    copied = tmp_path / "volumes"
    shutil.copytree(bench.data, copied)
    assert dataclasses.replace(bench, data=copied, folder=tmp_path).work.name == bench.work.name
    name = next(exam for exam, *_, part in rows() if part == "labelled")
    changed = nib.load(copied / "labels" / f"{name}.nii.gz")
    nib.save(
        nib.Nifti1Image(1 - np.asarray(changed.dataobj), np.eye(4)), copied / "labels" / f"{name}.nii.gz"
    )
    assert dataclasses.replace(bench, data=copied, folder=tmp_path).work.name != bench.work.name
    arm = bench.plan.arm("federated")
    other = small_study(SITES).model_copy(update={"seed": 99})
    RunFolder.create_or_resume(tmp_path / "runs" / "run", other, source={"sites": {}})
    Federation(tmp_path / "runs" / "run", other, {site: place / "of-sites" / site for site in SITES}).run()
    assert dataclasses.replace(bench, runs=tmp_path / "runs").key_of(arm) != bench.key_of(arm)


def test_nor_are_those_of_another_version_of_the_code(place, monkeypatch):
    bench = bench_at(place)
    work = bench.work
    with monkeypatch.context() as patch:
        patch.setattr("experiments.segmentation.basis.code_digest", lambda _: "another version")
        assert bench_at(place).work != work
    assert bench_at(place).work == work
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "another" if name == "monai" else real(name)
    )
    assert bench_at(place).work != work


def test_all_code_that_an_experiment_imports_belongs_to_its_basis():
    """But for what only shows figures, or reads them: of that, nothing can change a fine-tuning."""
    shown = {"__init__", "analysis", "basis", "compare", "compared", "difference", "export", "generators"}
    shown |= {"holm", "names", "needs", "plot", "questions", "table"}
    folder = Path(basis.__file__).parent
    counted = {Path(part).stem for part in basis._CODE if "segmentation" in part}
    assert counted == {file.stem for file in folder.glob("*.py")} - shown
    for part in basis._CODE:
        assert (folder.parents[1] / part).exists()


def test_a_generator_that_was_not_trained_to_the_end_is_missing(place, tmp_path):
    run = tmp_path / "runs" / "run"
    shutil.copytree(place / "runs" / "run", run)
    bench = dataclasses.replace(bench_at(place), runs=tmp_path / "runs")
    assert bench.missing == ["local"]
    last = max(run.glob("checkpoints/diffusion-*"))
    shutil.rmtree(last)
    assert bench.missing == ["federated", "one volume", "local"]


def test_a_test_patient_without_any_class_is_refused_before_anything_is_computed(place):
    bench = bench_at(place, classes=[{"name": "empty", "values": [7]}])
    with pytest.raises(DataError, match="4 test patients have no voxel of any class"):
        compare_arms(bench, 1, lambda _: None)


def test_classes_are_the_values_that_the_plan_names_and_all_else_is_background(place):
    stored = bench_at(place).cohort("test").label_maps()
    assert set(stored.unique().tolist()) == {0, 1}
    empty, both = {"name": "empty", "values": [7]}, {"name": "both", "values": [1, 3]}
    assert torch.equal(bench_at(place, classes=[empty, both]).cohort("test").label_maps(), 2 * stored)
    assert not bench_at(place, classes=[empty]).cohort("test").label_maps().any()


def test_label_maps_may_lie_in_another_folder(place, tmp_path):
    weak = tmp_path / "volumes"
    shutil.copytree(place / "data" / "volumes", weak)
    (weak / "labels").rename(weak / "labels_weak")
    (weak / "labels_expert").mkdir()
    for file in (weak / "labels_weak").iterdir():
        nib.save(
            nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), weak / "labels_expert" / file.name
        )
    bench = dataclasses.replace(bench_at(place, label_folder="labels_weak"), data=weak, folder=tmp_path / "x")
    expected = bench_at(place).cohort("test").label_maps()
    for _ in range(2):  # the second time the view is there
        assert torch.equal(dataclasses.replace(bench).cohort("test").label_maps(), expected)
    # With the same folder of results: no view of the first maps or volumes may be taken for one of these.
    expert = bench_at(place, label_folder="labels_expert")
    assert not dataclasses.replace(expert, data=weak, folder=bench.folder).cohort("test").label_maps().any()
    others = tmp_path / "other volumes"
    shutil.copytree(weak, others)
    for file in (others / "labels_weak").iterdir():
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)), file)
    assert not dataclasses.replace(bench, data=others).cohort("test").label_maps().any()


def test_pretrained_weights_load_into_plain_monai_as_the_printed_lines_say(place, tmp_path):
    compare_arms(bench_at(place), 1, lambda _: None)  # of the first test, or made here
    folder = next((place / "experiment").glob("*/pretrained/federated-*-p0-v0"))
    lines = export_weights(folder, tmp_path / "weights.safetensors")
    said = {}
    exec(lines, said)  # noqa: S102  what a reader would paste
    assert isinstance(said["network"], SegResNet)
    stored = read_tensor_folder(folder)[0]["backbone"]
    assert all(torch.equal(said["network"].state_dict()[name], value) for name, value in stored.items())
    volumes = torch.randn(1, 1, 8, 8, 8)
    ours = SegmentationNetwork.fresh(NetworkConfig(), 1, 4, torch.Generator().manual_seed(0))
    ours.backbone.load_state_dict(stored)
    with torch.no_grad():
        assert torch.allclose(said["network"].eval()(volumes), ours.eval()(volumes)[0], atol=1e-5)
    with pytest.raises(DataError, match="exists"):
        export_weights(folder, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="holds no pretrained"):
        export_weights(next((place / "runs" / "run" / "checkpoints").iterdir()), tmp_path / "other")


def test_a_set_that_was_stopped_before_its_first_volume_is_made_by_a_second_call(
    place, tmp_path, monkeypatch
):
    model = load_released_model(RunFolder.open(place / "runs" / "run"), CPU)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("server.synthesis._sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesize(model, tmp_path / "set", 2, 0)
    monkeypatch.undo()
    assert len(synthesize(model, tmp_path / "set", 2, 0)["volumes"]) == 2


def test_any_folder_of_volumes_is_an_arm_and_one_that_holds_a_test_patient_s_image_is_refused(
    place, tmp_path
):
    folder = tmp_path / "runs" / "shared"
    folder.mkdir(parents=True)
    images = place / "data" / "volumes" / "images"
    for exam, *_, part in rows():
        if part == "generator":
            shutil.copy(images / f"{exam}.nii.gz", folder / f"renamed-{exam}.nii.gz")
    arms = [PLAN["arms"][0], {"name": "shared", "source": "folder", "folder": "shared"}]
    bench = dataclasses.replace(bench_at(place, arms=arms), runs=tmp_path / "runs", folder=tmp_path / "work")
    compared = compare_arms(bench, 1, lambda _: None)
    assert list(compared.results["labels"]["1"]["arms"]) == ["scratch", "shared"]
    before = bench.key_of(bench.plan.arm("shared"))
    test = next(exam for exam, *_, part in rows() if part == "test")
    shutil.copy(images / f"{test}.nii.gz", folder / "who.nii.gz")
    with pytest.raises(LeakageError, match="1 test patients are among the shared patients"):
        compare_arms(bench, 1, lambda _: None)
    assert bench.key_of(bench.plan.arm("shared")) != before
    with pytest.raises(ConfigError, match="shared: the earlier results are of other volumes"):
        compare_arms(bench, 1, lambda _: None, compared)
    shutil.rmtree(folder)
    assert bench.missing == ["shared"]


def test_public_phantoms_fill_the_study_s_voxels_with_a_whole_breast(place):
    small = bench_at(place).study.volume
    for shape in ((32, 32, 32), (32, 48, 32)):
        scanner = public_hospital(small.model_copy(update={"shape": shape})).scanner
        assert scanner.shape == shape
        edges = [size * spacing for size, spacing in zip(shape, scanner.spacing_mm, strict=True)]
        assert edges == pytest.approx([46 * 3.6] * 3)


def test_every_source_gives_as_many_volumes_as_asked_for_of_the_study_s_shape(place, tmp_path):
    bench = bench_at(place)
    spec = bench.study.volume
    synthetic = Synthetic(place / "runs" / "run", tmp_path, CPU)
    sources = [
        Noise(spec),
        Phantoms(spec, public_hospital(spec)),
        synthetic,
        OneVolume(synthetic),
        Real(bench.cohort("generator")),
    ]
    for source in sources:
        volumes = source.volumes(4, 0)
        assert volumes.shape == (4, 1, 8, 8, 8)
        assert float(volumes.abs().max()) <= 1
        assert torch.equal(volumes, source.volumes(4, 0))
        alike = torch.equal(volumes[0], volumes[1])
        assert alike == isinstance(source, OneVolume)
        assert not torch.equal(volumes, source.volumes(4, 1))
    with pytest.raises(DataError, match="13 volumes are wanted of 12"):
        sources[-1].volumes(13, 0)
