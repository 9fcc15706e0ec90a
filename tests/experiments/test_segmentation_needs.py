"""What a plan needs and does not have is told before anything is computed."""

import dataclasses

import pytest
from segmentation_place import PLAN, SITES, bench_at, make_place
from small_federation import Federation, small_study

from common.errors import ConfigError, DataError
from experiments.segmentation.compare import compare_arms
from experiments.segmentation.generators import is_trained
from experiments.segmentation.needs import refuse_other_volumes
from server.checkpoint import CheckpointStore
from server.run_folder import RunFolder

SCRATCH = PLAN["arms"][0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("segmentation"))


def refused_before_any_job(bench, error, match, **options):
    with pytest.raises(error, match=match):
        compare_arms(bench, 1, lambda _: None, **options)
    assert not list(bench.folder.rglob("jobs/*/*.json"))


def test_more_labelled_patients_than_there_are(place, tmp_path):
    bench = dataclasses.replace(bench_at(place, labels=[1, 5], arms=PLAN["arms"][:2]), folder=tmp_path)
    refused_before_any_job(bench, DataError, "5 labelled patients are wanted of 4")


def test_more_real_volumes_than_there_are(place, tmp_path):
    bench = dataclasses.replace(bench_at(place, num_volumes=13), folder=tmp_path)
    refused_before_any_job(bench, DataError, "real: 13 volumes are wanted of 12")


@pytest.mark.parametrize(
    "changes",
    [
        {"volume__spacing_mm": [2, 2, 2]},
        {"volume__shape": [8, 8, 16]},
        {"volume__intensity": {"kind": "percentile", "low": 2, "high": 90}},
    ],
)
def test_a_generator_of_other_volumes(place, tmp_path, changes):
    other = small_study(SITES, **changes)
    images = sorted(bench_at(place).cohort("generator").patient_of_image)
    run = tmp_path / "runs" / "run"
    RunFolder.create_or_resume(run, other, source={"sites": {}, "images": images})
    Federation(run, other, {site: place / "of-sites" / site for site in SITES}).run()
    bench = dataclasses.replace(bench_at(place), runs=tmp_path / "runs", folder=tmp_path / "work")
    refused_before_any_job(bench, ConfigError, "federated: the study small has other volumes than small")


def test_label_maps_that_come_with_the_images_do_not_matter(place):
    labels = [{"name": "box", "values": [1]}]
    refuse_other_volumes(
        dataclasses.replace(bench_at(place, arms=[SCRATCH, PLAN["arms"][1]]),
                            labelled_study=small_study(SITES, volume__labels=labels))
    )  # fmt: skip


@pytest.mark.parametrize("standing", ["primary", "descriptive"])
def test_one_arm_alone_whose_run_is_missing(place, tmp_path, standing):
    bench = dataclasses.replace(bench_at(place, standing=standing), folder=tmp_path)
    refused_before_any_job(bench, ConfigError, "no run of", only=["local"])


def test_a_generator_whose_budget_ended_it_early_is_missing(place, tmp_path):
    study = small_study(SITES)
    whole = CheckpointStore(place / "runs" / "run" / "checkpoints", study.digest).load_newest()
    for name, ended in (("whole", False), ("ended", True)):
        run = RunFolder.create_or_resume(tmp_path / name, study, source={})
        CheckpointStore(run.checkpoints, study.digest).save(dataclasses.replace(whole, ended=ended))
        assert is_trained(run.path) is not ended


def test_what_an_experiment_keeps_of_patients_is_its_owner_s_alone(place, tmp_path):
    bench = dataclasses.replace(bench_at(place, arms=PLAN["arms"][:2]), folder=tmp_path / "work")
    compare_arms(bench, 1, lambda _: None)
    assert bench.folder.stat().st_mode & 0o077 == 0
