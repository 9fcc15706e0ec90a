"""A whole experiment on tiny volumes: who is pretrained on what, who is tested, what is said of it."""

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from small_federation import Federation, small_study

from common.artifact import read_manifest, read_tensor_folder
from common.errors import ConfigError, DataError, MetricError
from common.frozen import parse
from experiments.privacy_utility.phantoms import stranger
from experiments.segmentation.analysis import pairs_of, summary_of, table_of
from experiments.segmentation.arms import Bench
from experiments.segmentation.cohort import Cohort, LeakageError, refuse_leakage
from experiments.segmentation.compare import compare_arms
from experiments.segmentation.jobs import by_patient, fine_tunings, labelled_exams, pretrainings
from experiments.segmentation.plan import SegmentationPlan, load_plan
from experiments.segmentation.scores import DICE
from experiments.segmentation.sources import Noise, OneVolume, Phantoms, Real, Synthetic
from experiments.segmentation.table import segmentation_text
from server.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SITES = ("a", "b")
PATIENTS = {"generator": 3, "labelled": 2, "validation": 1, "test": 2}  # of each site, two exams each
PLAN = {
    "name": "segmentation-tiny",
    "study": "tiny",
    "data": "volumes",
    "classes": ["box"],
    "pretext": {"block": 4},
    "pretraining": {"steps": 2, "batch_size": 2},
    "fine_tuning": {"steps": 2, "batch_size": 2},
    "num_volumes": 4,
    "pretraining_seeds": 2,
    "sampling_seeds": 1,
    "seeds": 2,
    "labels": [1, 2],
    "arms": [
        {"name": "scratch", "source": "scratch"},
        {"name": "noise", "source": "noise"},
        {"name": "federated", "source": "synthetic", "run": "run"},
        {"name": "one volume", "source": "one_volume", "run": "run"},
        {"name": "local", "source": "synthetic", "run": "not there"},
        {"name": "real", "source": "real"},
    ],
}


def rows():
    """Return (exam, patient, site, part): both sides of everybody."""
    return [
        (f"{site}-{part}-{index}-{side}", f"{site}{part}{index}", site, part)
        for site in SITES
        for part, num in PATIENTS.items()
        for index in range(num)
        for side in ("left", "right")
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, study files, and the run of a generator that was trained on the generator's patients."""
    root = tmp_path_factory.mktemp("segmentation")
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / "data" / "volumes" / name).mkdir(parents=True)
    for exam, *_ in rows():
        box = np.zeros((8, 8, 8), np.uint8)
        x, y, z = generator.integers(0, 4, 3)
        box[x : x + 4, y : y + 4, z : z + 4] = 1
        voxels = (box + 0.3 * generator.normal(size=box.shape)).astype(np.float32)
        for name, content in (("images", voxels), ("labels", box)):
            nib.save(nib.Nifti1Image(content, np.eye(4)), root / "data" / "volumes" / name / f"{exam}.nii.gz")
    (root / "configs").mkdir()
    table = "".join(",".join(row) + "\n" for row in rows())
    (root / "configs" / "split.csv").write_text("file,patient,site,part\n" + table)
    study = small_study(SITES)
    content = study.model_dump(mode="json") | {"simulation": {"split": "split.csv"}}
    (root / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    made = bench_at(root)
    trained_on = sorted(made.cohort("generator").patient_of_image)
    RunFolder.create_or_resume(root / "runs" / "run", study, source={"sites": {}, "images": trained_on})
    flat = root / "of-sites"
    for site in SITES:
        (flat / site).mkdir(parents=True)
        for exam, _, own, part in rows():
            if (own, part) == (site, "generator"):
                shutil.copy(root / "data" / "volumes" / "images" / f"{exam}.nii.gz", flat / site)
    Federation(root / "runs" / "run", study, {site: flat / site for site in SITES}).run()
    return root


def bench_at(root, **changes):
    plan = parse(SegmentationPlan, PLAN | changes, "plan")
    return Bench(plan, root / "configs", root / "data", root / "runs", root / "experiment", CPU)


def test_the_whole_experiment_runs_says_what_is_missing_and_is_not_computed_twice(place):
    said = []
    bench = bench_at(place)
    found = compare_arms(bench, 1, said.append)
    assert found["missing_arms"] == ["local"]
    assert "not there" in said[0]
    arms = ["scratch", "noise", "federated", "one volume", "real"]
    for num in ("1", "2"):
        assert list(found["labels"][num]["means"]) == arms
        difference = found["labels"][num]["differences"]["federated - scratch"]
        assert difference["paired_t"]["low"] <= difference["estimate"] <= difference["paired_t"]["high"]
    assert found["labels"]["1"]["differences"]["federated - scratch"]["holm_p_value"] is None
    assert found["labels"]["2"]["differences"]["federated - scratch"]["holm_p_value"] is not None
    assert found["test_patients"] == 4
    text = json.dumps(found)
    assert not any(patient in text for _, patient, *_ in rows())  # their names stay where they are
    shown = segmentation_text(found)
    assert "Missing, since their runs are: local." in shown
    assert "| federated - scratch |" in shown
    assert "weak" not in shown
    assert "(weak labels)" in segmentation_text(found | {"weak_labels": True})
    finished = len(said)
    again = compare_arms(bench, 1, said.append)
    assert len(said) == finished + 1  # what is missing, and no job
    assert again["labels"] == found["labels"]
    folder = next((place / "experiment").glob("*/pretrained/federated-*-p0-v0"))
    assert read_manifest(folder)["arm"] == "federated"
    assert "convInit.conv.weight" in read_tensor_folder(folder)[0]["backbone"]


def test_a_plan_s_jobs_are_crossed_and_the_primary_number_of_labels_comes_first():
    plan = parse(SegmentationPlan, PLAN | {"pretraining_seeds": 5, "sampling_seeds": 2, "seeds": 20}, "plan")
    pairs = [plan.pretraining_of(seed) for seed in range(20)]
    assert {pairs.count(pair) for pair in set(pairs)} == {2}
    assert len(set(pairs)) == 10
    jobs = fine_tunings(plan)
    assert [job.num_labels for job in jobs] == [1] * 120 + [2] * 120
    assert len({job.name for job in jobs}) == len(jobs)
    networks = {job.name for job in pretrainings(plan)}
    assert len(networks) == 5 * 10
    assert not any("scratch" in name for name in networks)


def test_networks_of_another_plan_are_not_taken_for_this_one_s():
    plan = parse(SegmentationPlan, PLAN, "plan")
    longer = parse(SegmentationPlan, PLAN | {"pretraining": {"steps": 3, "batch_size": 2}}, "plan")
    more = parse(SegmentationPlan, PLAN | {"labels": [1, 2, 3], "arms": PLAN["arms"][:2]}, "plan")
    assert plan.key != longer.key
    assert plan.key == more.key
    arm = plan.arm("federated")
    assert arm.key != arm.model_copy(update={"run": "another"}).key


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seeds": 3}, "no multiple"),
        ({"arms": PLAN["arms"][1:]}, "one of them is scratch"),
        ({"arms": [PLAN["arms"][0], PLAN["arms"][0]]}, "names of their own"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "synthetic"}]}, "have a run"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "real", "run": "run"}]}, "have a run"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        parse(SegmentationPlan, PLAN | changes, "plan")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("segmentation-*.yaml")), ids=lambda file: file.stem)
def test_a_committed_plan_can_be_meant_and_its_smoke_version_is_short(file):
    plan = load_plan(file)
    assert plan.name == file.stem
    smoke = plan.smoke()
    assert parse(SegmentationPlan, smoke.model_dump(), "smoke") == smoke
    assert smoke.arms == plan.arms
    assert len(fine_tunings(smoke)) == 2 * len(plan.arms)
    assert smoke.key != plan.key


def test_a_plan_of_no_study_is_refused(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    with pytest.raises(ConfigError, match=r"no tiny\.yaml"):
        load_plan(tmp_path / "plan.yaml")
    (tmp_path / "tiny.yaml").touch()
    assert load_plan(tmp_path / "plan.yaml") == parse(SegmentationPlan, PLAN, "plan")


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


@pytest.fixture
def cohorts(place):
    bench = bench_at(place)
    return {part: bench.cohort(part) for part in PATIENTS}


def test_nobody_who_is_tested_was_seen_before(place, cohorts):
    others = [cohorts[part] for part in ("generator", "labelled", "validation")]
    refuse_leakage(cohorts["test"], others, {"federated": place / "runs" / "run"})


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("part", ["generator", "labelled", "validation"])
def test_a_test_patient_in_another_set_stops_the_experiment_by_either_side(cohorts, part, side):
    """The other set has one side alone: it is the same person."""
    exams = cohorts["test"].datasets[0].exams
    planted = dataclasses.replace(
        cohorts["test"].datasets[0], exams=tuple(e for e in exams if e.exam.endswith(f"0-{side}"))
    )
    cohort = Cohort(part, (*cohorts[part].datasets, planted))
    with pytest.raises(LeakageError, match=f"1 test patients are among the {part} patients, such as atest0"):
        refuse_leakage(cohorts["test"], [cohort], {})


def test_a_test_patient_s_image_under_another_name_stops_the_experiment(cohorts):
    dataset = cohorts["test"].datasets[0]
    renamed = tuple(dataclasses.replace(exam, patient="somebody else") for exam in dataset.exams)
    cohort = Cohort("generator", (dataclasses.replace(dataset, exams=renamed),))
    with pytest.raises(LeakageError, match="2 test patients are among the generator patients"):
        refuse_leakage(cohorts["test"], [cohort], {})


def test_a_generator_that_saw_a_test_patient_stops_the_experiment(place, cohorts, tmp_path):
    seen = sorted(cohorts["test"].patient_of_image)[:1]
    run = tmp_path / "run"
    RunFolder.create_or_resume(run, small_study(SITES), source={"sites": {}, "images": seen})
    with pytest.raises(LeakageError, match="1 test patients are among the generator of federated"):
        refuse_leakage(cohorts["test"], [], {"federated": run})


def test_every_source_gives_as_many_volumes_as_asked_for_of_the_study_s_shape(place, tmp_path):
    bench = bench_at(place)
    spec = bench.study.volume
    synthetic = Synthetic(place / "runs" / "run", tmp_path, CPU)
    sources = [
        Noise(spec),
        Phantoms(spec, stranger(spec)),
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


def figures(arm, seed, dice):
    return {"arm": arm, "labels": 1, "seed": seed, "scores": {DICE: dice}}


def test_dice_is_laid_out_by_pretraining_seed_and_averaged_over_classes():
    plan = parse(SegmentationPlan, PLAN | {"seeds": 4, "classes": ["x", "y"]}, "plan")
    made = [figures("noise", seed, [[seed, seed + 2.0], [10 * seed, 10 * seed]]) for seed in range(4)]
    table = table_of(plan, made, 1, "noise")
    assert table.tolist() == [[[1, 0], [3, 20]], [[2, 10], [4, 30]]]
    with pytest.raises(MetricError, match="no fine-tuning of seed 3"):
        table_of(plan, made[:3], 1, "noise")


def test_an_arm_that_is_better_is_said_to_improve_and_one_that_is_not_is_not():
    plan = parse(SegmentationPlan, PLAN | {"pretraining_seeds": 4, "seeds": 8, "labels": [1]}, "plan")
    generator = torch.Generator().manual_seed(0)

    def made(arm, mean):
        return [
            figures(arm, seed, (mean + 0.02 * torch.randn(12, 1, generator=generator)).tolist())
            for seed in range(8)
        ]

    found = summary_of(
        plan, [*made("scratch", 0.5), *made("noise", 0.5), *made("federated", 0.6), *made("real", 0.6)]
    )["1"]["differences"]
    improved = {name for name, difference in found.items() if difference["improves"]}
    assert improved == {"federated - scratch", "real - scratch", "federated - noise"}


def test_every_arm_is_compared_with_scratch_and_the_federation_with_every_other():
    assert pairs_of(["scratch", "noise", "federated", "real"]) == [
        ("noise", "scratch"),
        ("federated", "scratch"),
        ("real", "scratch"),
        ("federated", "noise"),
        ("federated", "real"),
    ]
    assert pairs_of(["scratch", "noise"]) == [("noise", "scratch")]
