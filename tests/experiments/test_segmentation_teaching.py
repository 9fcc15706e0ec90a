"""Whose label maps teach: a few patients', a generator's, or those of everybody it learned from."""

import dataclasses

import pytest
import torch
import yaml
from segmentation_place import PLAN, SITES, bench_at, make_place
from small_federation import small_study

from common.errors import ConfigError
from experiments.segmentation.compare import compare_arms
from experiments.segmentation.few_shot import train_on_few
from experiments.segmentation.teaching import labelled_exams, taught_pairs
from server.run_folder import RunFolder

ARMS = [
    PLAN["arms"][0],
    {
        "name": "generated labels",
        "source": "scratch",
        "teacher": "synthetic",
        "run": "labelled/run",
        "times": 2,
    },
    {"name": "real labels", "source": "scratch", "teacher": "real"},
    {"name": "own generator", "source": "scratch", "teacher": "few"},
]
ALSO = [["generated labels", "real labels"]]
CHANGES = {"arms": ARMS, "also": ALSO, "labelled_study": "tiny-labelled", "labels": [2]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The tiny experiment, with a study that has labels and a run of it."""
    root = make_place(tmp_path_factory.mktemp("teaching"))
    study = small_study(SITES, volume__labels=PLAN["classes"], codec__model__discriminator=None)
    (root / "configs" / "tiny-labelled.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    bench = bench_at(root, **CHANGES)
    exams = [(exam.exam, exam.patient) for exam in bench.cohort("generator").exams]
    train_on_few(study, bench.data, exams, 0, root / "runs" / "labelled")
    return root


@pytest.fixture
def bench(place):
    return bench_at(place, **CHANGES)


def pairs(bench, name, seed=0):
    arm = bench.plan.arm(name)
    return taught_pairs(arm, bench.key_of(arm), 2, seed, bench)


def test_the_experiment_compares_teachers_and_pretrains_nobody(bench):
    found = compare_arms(bench, 1, lambda _: None).results["labels"]["2"]
    assert list(found["arms"]) == [arm["name"] for arm in ARMS]
    assert list(found["differences"]) == [
        "own generator - scratch",
        "generated labels - real labels",
    ]  # the two questions, and no arm with many labels beside one with few
    assert not (bench.work / "pretrained").exists()


def test_the_few_teach_alone_and_everybody_teaches_with_the_maps_of_the_generator_s_patients(bench):
    labelled, everybody = bench.cohort("labelled"), bench.cohort("generator")
    few = pairs(bench, "scratch")
    chosen = labelled_exams(labelled, 2, 0)
    assert torch.equal(few.volumes, labelled.volumes()[chosen])
    assert torch.equal(few.label_maps, labelled.label_maps()[chosen])
    real = pairs(bench, "real labels")
    assert torch.equal(real.volumes, everybody.volumes())
    assert torch.equal(real.label_maps, everybody.label_maps())


def test_a_generator_teaches_with_as_many_pairs_as_the_plan_says_and_they_belong_together(bench):
    made = pairs(bench, "generated labels")
    assert made.volumes.shape == (8, 1, 8, 8, 8)
    assert made.label_maps.shape == (8, 8, 8, 8)
    again = pairs(bench, "generated labels")
    assert torch.equal(made.label_maps, again.label_maps)
    assert torch.equal(made.volumes, again.volumes)


def test_a_generator_of_the_few_saw_nobody_else_and_teaches_beside_them(bench):
    own, few = pairs(bench, "own generator", seed=1), pairs(bench, "scratch", seed=1)
    half = few.repeated(2)
    assert len(half) == 4
    assert torch.equal(own.volumes[:4], half.volumes)
    assert torch.equal(own.label_maps[:4], half.label_maps)
    assert len(own) == 4 + 4  # half of what is seen is an expert's
    run = RunFolder.open(next((bench.work / "few").glob("*-n2-s1")) / "run")
    labelled = bench.cohort("labelled")
    exams = [labelled.exams[index] for index in labelled_exams(labelled, 2, 1)]
    assert run.record()["source"]["images"] == sorted(exam.digests[0] for exam in exams)
    before = run.record()["run"]
    pairs(bench, "own generator", seed=1)
    assert run.record()["run"] == before  # trained once


def test_more_experts_than_volumes_are_all_seen(bench):
    fewer = dataclasses.replace(bench, plan=bench.plan.model_copy(update={"num_volumes": 2}))
    arms = (fewer.plan.arm(name) for name in ("own generator", "scratch"))
    own, few = (taught_pairs(arm, "of fewer", 4, 0, fewer) for arm in arms)
    assert len(few) == 4
    assert len(own) == 4 + 2
    assert torch.equal(own.volumes[:4], few.volumes)


def test_generators_of_other_patients_or_seeds_are_others(bench):
    one, other = (pairs(bench, "own generator", seed).volumes[4:] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_run_with_other_classes_teaches_nobody(place, bench):
    other = bench_at(place, **CHANGES | {"classes": [{"name": "another", "values": [1]}]})
    with pytest.raises(ConfigError, match="other classes"):
        pairs(other, "generated labels")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"labelled_study": None}, "labelled_study"),
        ({"arms": ARMS[:3]}, "labelled_study"),
        ({"also": [["scratch", "nobody"]]}, "no arm nobody"),
        ({"arms": [ARMS[0], {"name": "x", "source": "noise", "teacher": "real"}]}, "another teacher"),
        ({"arms": [ARMS[0], {"name": "x", "source": "scratch", "teacher": "synthetic"}]}, "have a run"),
    ],
)
def test_a_plan_of_teachers_that_cannot_be_meant_is_refused(place, changes, word):
    with pytest.raises(ConfigError, match=word):
        bench_at(place, **CHANGES | changes)


def test_a_version_of_minutes_trains_generators_of_minutes(bench):
    short = bench.smoke()
    assert short.plan.num_volumes == 4
    assert short.plan.standing == "descriptive"
    for stage in (short.labelled_study.codec, short.labelled_study.diffusion):
        assert (stage.training.rounds, stage.training.local_steps) == (1, 2)
    assert short.work != bench.work


def test_generators_of_the_few_belong_to_their_study(bench):
    longer = bench.labelled_study.model_copy(update={"seed": 9})
    assert dataclasses.replace(bench, labelled_study=longer).work != bench.work
