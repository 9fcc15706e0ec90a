"""`fedvox demo --tiny`, and `fedvox experiment run segmentation-phantoms --smoke`: every arm of it.

The study is the demo's with networks and schedules of seconds; patients, split and commands are the real,
and the commands train every generator that the plan names.
"""

import csv
import json
import os
import re
import shlex
import shutil
from itertools import chain
from pathlib import Path

import pytest
import yaml
from command_line import fedvox, fedvox_apart, refused
from monai.networks.nets import SegResNet
from safetensors import safe_open

from common.artifact import sha256_of_file
from common.frozen import load_yaml
from experiments.demo import STUDY_FILE, TINY_TRAINING
from experiments.demo_patients import SPLIT, write_demo_patients

pytestmark = pytest.mark.smoke

PAGE = Path(__file__).parents[2] / "docs" / "segmentation.md"
NAME = "segmentation-phantoms"
ARMS = ["scratch", "noise", "other phantoms", "one volume", "one site", "federated", "federated x4",
        "federated DP", "real"]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the phantoms, and every generator that the plan names, trained for seconds."""
    folder = tmp_path_factory.mktemp("desk")
    write_demo_patients(folder / "data" / "demo-hospitals")
    content = load_yaml(STUDY_FILE)
    content["simulation"]["split"] = str(SPLIT)
    for stage in ("codec", "diffusion"):
        content[stage]["training"] |= TINY_TRAINING
    content["diffusion"]["model"]["denoiser"] = {"channels": [8, 32], "attention": [False, False]}
    content["diffusion"]["model"]["sampler"] = {"kind": "euler", "num_steps": 2}
    (folder / "demo.yaml").write_text(yaml.safe_dump(content))
    study = ("study", "run", "demo.yaml", "--data", "data/demo-hospitals", "--json")
    done(folder, *study)
    done(folder, *study, "--site", "valley")
    done(folder, "study", "init", "demo-private.yaml", "--start-from", "runs/demo-valley", "--site", "north",
         "--site", "harbor", "--patients", "28", "--rounds", "2", "--split", str(SPLIT))  # fmt: skip
    done(folder, "study", "run", "demo-private.yaml", "--data", "data/demo-hospitals", "--json",
         "--start-from", "runs/demo-valley")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def results(desk):
    return json.loads(done(desk, "experiment", "run", NAME, "--smoke", "--data", "data", "--json"))[NAME]


def done(folder, *words):
    result = fedvox_apart(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_command_that_hangs_is_ended_and_says_where_it_hung(tmp_path):
    os.mkfifo(tmp_path / "study.yaml")  # nobody ever writes into it
    ended = fedvox_apart("study", "run", "study.yaml", "--data", "data", cwd=tmp_path, within_s=5)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "load_study_file" in ended.stderr


def test_the_demo_leaves_volumes_metrics_and_a_report_that_ends_with_what_they_are_good_for(tmp_path):
    stdout = done(tmp_path, "demo", "--tiny", "--json")
    run = tmp_path / "runs" / "demo-tiny"
    assert json.loads((run / "metrics.json").read_text()) == json.loads(stdout)
    assert len(list((run / "synthetic").glob("*.nii.gz"))) >= 16
    page = (run / "report.html").read_text()
    for word in ("north", "harbor", "valley", "federated - scratch", "Gain in Dice", "Dice glandular"):
        assert word in page


def test_every_arm_is_run_and_none_is_missing(results):
    assert results["missing_arms"] == []
    (found,) = results["labels"].values()
    assert found["arms"].keys() == set(ARMS)
    assert results["test_patients"] == 36


def test_what_was_found_is_shown_as_tables_for_a_page_and_for_a_paper_and_as_a_picture(desk, results):
    shown = desk / "runs" / NAME
    shutil.copytree(desk / "runs" / f"{NAME}-smoke", shown)
    page, paper = (done(desk, "experiment", "table", NAME, *words) for words in ((), ("--latex",)))
    for shown_as, text in (("\n| {} |", page), ("\n{} & ", paper)):
        places = [text.index(shown_as.format(arm)) for arm in ARMS]
        assert places == sorted(places)  # in the order of the plan
    assert (shown / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    lines = (shown / f"{NAME}.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(ARMS)
    refused(fedvox("experiment", "table", "baselines", "--latex", cwd=desk), "no LaTeX tables")


def test_the_commands_of_the_page_run_as_they_stand(desk):
    """All but the first, `fedvox demo`: the fixture's study stands for its, with networks of seconds."""
    demo, run, *others = re.findall(r"^    fedvox (.+)$", PAGE.read_text(), re.MULTILINE)
    assert demo == "demo"
    (desk / "runs" / "demo-hospitals").symlink_to(desk / "data" / "demo-hospitals")
    done(desk, *shlex.split(run), "--smoke")
    ours, elsewhere = desk / "runs" / "segmentation-demo", desk / "elsewhere"
    smoke = ours.with_name("segmentation-demo-smoke")
    smoke.rename(ours)
    elsewhere.mkdir()
    for ending in ("json", "jsonl"):
        shutil.copy(ours / f"segmentation-demo.{ending}", elsewhere)
    assert {line.split()[1] for line in others} == {"run", "table", "export-weights"}
    for line in others:
        words = (sorted(desk.glob(word)) if "*" in word else [word] for word in shlex.split(line))
        assert done(desk, *chain.from_iterable(words), *(["--smoke"] if "experiment run" in line else []))
    assert (smoke / "segmentation-demo.json").read_text() == (
        elsewhere / "segmentation-demo.json"
    ).read_text()


def test_pretrained_weights_are_exported_for_plain_monai(desk, results):
    folder = next((desk / "runs" / f"{NAME}-smoke").glob("work/*/pretrained/federated-*-p0-v0"))
    lines = done(desk, "experiment", "export-weights", str(folder), "--out", "phantoms.safetensors")
    assert "from monai.networks.nets import SegResNet" in lines
    with safe_open(desk / "phantoms.safetensors", "pt") as file:
        network = SegResNet(**json.loads(file.metadata()["arguments"]))
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def test_a_test_patient_who_was_seen_stops_the_experiment_by_name(desk, results, tmp_path):
    """A run that learned from a test patient, by a mistake in its split, is found by what its images are."""
    run = tmp_path / "runs" / "demo"
    shutil.copytree(desk / "runs" / "demo", run)
    with SPLIT.open(newline="") as file:
        exam = next(row for row in csv.DictReader(file) if row["part"] == "test")
    images = desk / "data" / "demo-hospitals" / "images"
    record = json.loads((run / "run.json").read_text())
    record["source"]["images"].append(sha256_of_file(images / f"{exam['file']}_0000.nii.gz"))
    (run / "run.json").write_text(json.dumps(record))
    words = ("experiment", "run", NAME, "--smoke", "--data", desk / "data")
    refused(fedvox(*map(str, words), cwd=tmp_path), exam["patient"], "generator of", "take them out")
