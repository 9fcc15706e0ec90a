"""A private study as its people run it: coordinator, site engineer, data protection officer."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import fedvox, refused
from small_federation import GRADIENT_CODEC, small_study, write_patient_table, write_volumes

from common.frozen import parse
from common.study import Study
from server.checkpoint import CheckpointStore
from server.run_folder import RunFolder

SITES = ("north", "south")
INIT = ("--start-from", "runs/public", "--patients", 8, "--epsilon", 6, "--rounds", 2, "--codec-rounds", 1)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A public model, and a private study of two sites that starts from it, run to its end."""
    folder = tmp_path_factory.mktemp("private")
    write_volumes(folder / "open" / "public", 3, 0)
    for seed, site in enumerate(SITES, start=1):
        write_patient_table(write_volumes(folder / "data" / site, 3, seed))
    # MS-SSIM needs 28 voxels a side.
    study = small_study(("public",), volume__shape=[28, 28, 28], name="public", **GRADIENT_CODEC)
    (folder / "public.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_none=True)))
    sites = [word for site in SITES for word in ("--site", site)]
    for words in (
        ("run", "public.yaml", "--data", "open", "--json"),
        ("init", "private.yaml", *sites, *INIT),
        ("check", "private.yaml", "--data", "data"),
        ("run", "private.yaml", "--data", "data", "--start-from", "runs/public", "--json"),
    ):
        result = fedvox("study", *words, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def run_again(folder, where):
    """Run the story's private study on the data of another folder."""
    start = ("--start-from", folder / "runs" / "public")
    return fedvox("study", "run", folder / "private.yaml", "--data", "data", *start, cwd=where)


def site_file(site):
    return f"runs/private/sites/{site}/site.yaml"


@pytest.mark.parametrize(("codec_rounds", "rate"), [(0, 0.03), (1, 0.01)])
def test_a_private_study_is_written_with_the_setting_that_was_measured(story, tmp_path, codec_rounds, rate):
    folder, _ = story
    words = (*INIT[:-1], codec_rounds)
    assert fedvox("study", "init", tmp_path / "p.yaml", "--site", "a", *words, cwd=folder).returncode == 0
    written = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert written["privacy"]["trainable"] == {"kind": "bias"}  # of the denoiser; decision 18
    assert written["federation"]["strategy"]["learning_rate"] == rate


def test_the_run_ends_and_its_manifest_says_what_is_promised(story):
    folder, status = story
    assert status["state"] == "finished"
    manifest = json.loads((folder / "runs" / "private" / "synthetic" / "manifest.json").read_text())
    said = manifest["differential_privacy"]
    assert 5.8 < said["epsilon"] <= 6
    assert (said["unit"], said["relation"]) == ("patient", "add_or_remove_one")
    assert (said["mark"], said["ledgers_trusted_by_hand"]) == ("RESEARCH", [])
    heads = json.loads((folder / "runs" / "private" / "ledger_heads.json").read_text())["heads"]
    assert said["ledger_heads"] == {site: seen[-1] for site, seen in heads.items()}
    assert "this study alone" in said["scope"]
    assert {name: stage["steps_paid_for"] for name, stage in said["stages"].items()} == {
        "codec": 2,
        "diffusion": 3,
    }
    public = json.loads(fedvox("study", "status", "--run", "runs/public", "--json", cwd=folder).stdout)
    assert said["public_model"] == public["model"]
    page = (folder / "runs" / "private" / "report.html").read_text()
    assert "differentially private" in page
    assert "That epsilon is per run" in page


def test_study_check_says_the_price_before_anything_is_trained(story):
    folder, _ = story
    facts = json.loads(fedvox("study", "check", "private.yaml", "--json", cwd=folder).stdout)["study"]
    assert 5.8 < facts["epsilon, rounds and spare rounds"] <= 6
    private = yaml.safe_load((folder / "private.yaml").read_text())["privacy"]
    for stage in ("codec", "diffusion"):
        assert facts[f"{stage}: rounds that may be lost"] == 1
        trained, plan = facts[f"{stage}: trained parameters"], private[stage]
        drawn = plan["sampling_rate"] * plan["nominal_patients"] * len(SITES) ** 0.5
        noise = plan["noise_multiplier"] * trained**0.5 / drawn
        assert facts[f"{stage}: noise to signal of a step"] == pytest.approx(noise, abs=1e-3)


@pytest.mark.parametrize("site", SITES)
def test_every_site_can_show_verify_and_export_what_was_spent(story, site):
    folder, _ = story
    shown = fedvox("site", "ledger", "show", site_file(site), "--json", cwd=folder)
    summary = json.loads(shown.stdout)["summary"]
    assert (summary["orders paid for"], summary["orders answered"], summary["private steps"]) == (3, 3, 3)
    assert 0 < summary["epsilon spent"] < summary["epsilon cap"] == 6
    assert summary["research"]
    assert "whole: 6 entries" in " ".join(
        fedvox("site", "ledger", "verify", site_file(site), cwd=folder).stdout.split()
    )
    assert (
        fedvox("site", "ledger", "export", site_file(site), "--out", f"{site}.json", cwd=folder).returncode
        == 0
    )
    entry = json.loads((folder / f"{site}.json").read_text())
    assert entry["parameters"]["epsilon"] == summary["epsilon spent"]
    assert entry["privacy_unit"].startswith("patient")
    counted = [(event["stage"], event["orders"], event["steps"]) for event in entry["events"]]
    assert counted == [("codec", 1, 1), ("diffusion", 2, 2)]
    assert all(event.keys().isdisjoint({"time", "patients", "run", "round"}) for event in entry["events"])
    text = fedvox("site", "ledger", "show", site_file(site), cwd=folder).stdout
    assert "epsilon spent" in text


def test_nothing_of_a_site_but_the_ledger_head_reaches_the_coordinators_files(story):
    folder, _ = story
    run = folder / "runs" / "private"
    heads = json.loads((run / "ledger_heads.json").read_text())["heads"]
    assert set(heads) == set(SITES)
    for line in (run / "events.jsonl").read_text().splitlines():
        for said in json.loads(line).get("sites", {}).values():
            assert said == {"steps": 1, "seconds": 0.0, "share": 1.0, "metrics": {}}


def test_a_public_model_of_the_same_patients_is_refused(story, tmp_path):
    folder, _ = story
    shutil.copytree(folder / "data", tmp_path / "data")
    one = next((folder / "open" / "public").glob("*.nii.gz"))
    shutil.copy(one, tmp_path / "data" / "north" / "renamed.nii.gz")
    write_patient_table(tmp_path / "data" / "north")
    refused(run_again(folder, tmp_path), "1 of the sites' images were used to train", "without any privacy")
    assert not (tmp_path / "runs" / "private" / "run.json").exists()


def test_a_run_that_ended_for_want_of_budget_asks_again_when_it_is_resumed(story):
    folder, finished = story
    run = RunFolder.open(folder / "runs" / "private")
    report = (run.path / "report.html").read_text()
    shutil.rmtree(run.checkpoints / "diffusion-0002")
    store = CheckpointStore(run.checkpoints, run.study().digest)
    store.save(dataclasses.replace(store.load_newest(), ended=True))
    (run.path / "report.html").write_text("of the model that was the last one then")
    result = fedvox("study", "resume", "--run", "runs/private", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model"] == finished["model"]
    assert len((run.path / "report.html").read_text()) > 0.9 * len(report)
    shown = fedvox("site", "ledger", "show", site_file("north"), "--json", cwd=folder)
    assert json.loads(shown.stdout)["summary"]["orders paid for"] == 3  # the reply was stored


def test_a_simulation_refuses_to_guess_whose_exams_they_are(story, tmp_path):
    folder, _ = story
    for seed, site in enumerate(SITES):
        write_volumes(tmp_path / "data" / site, 2, seed)
    refused(run_again(folder, tmp_path), "nobody has said which exams are of one person", "patients.csv")
    assert not (tmp_path / "runs").exists()


def test_a_coordinator_can_decide_to_trust_a_ledger_again(story):
    folder, _ = story
    heads_file = folder / "runs" / "private" / "ledger_heads.json"
    before = heads_file.read_text()
    trust = ("study", "trust-ledger", "--run", "runs/private", "--site")
    refused(fedvox(*trust, "nowhere", cwd=folder), "has no site nowhere")
    assert heads_file.read_text() == before
    assert fedvox(*trust, "north", cwd=folder).returncode == 0
    assert set(json.loads(heads_file.read_text())["heads"]) == {"south"}
    heads_file.write_text(before)


def test_an_altered_reply_is_found(story, tmp_path):
    folder, _ = story
    shutil.copytree(folder / "runs" / "private" / "sites" / "north" / "ledger", tmp_path / "ledger")
    reply = next((tmp_path / "ledger" / "replies").iterdir())
    reply.write_bytes(reply.read_bytes()[:-1] + b"x")
    (tmp_path / "site.yaml").write_text(
        "{name: north, data: data, policy: {epsilon: 6, delta: 1.0e-5, ledger: ledger}}"
    )
    refused(fedvox("site", "ledger", "verify", "site.yaml", cwd=tmp_path), "missing or was altered")


def test_a_ledger_is_created_once(tmp_path):
    (tmp_path / "site.yaml").write_text("{name: a, data: data, policy: {epsilon: 3, ledger: ledger}}")
    assert fedvox("site", "ledger", "create", "site.yaml", cwd=tmp_path).returncode == 0
    refused(fedvox("site", "ledger", "create", "site.yaml", cwd=tmp_path), "is not empty")
    shown = fedvox("site", "ledger", "show", "site.yaml", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["summary"]["epsilon spent"] == 0
    (tmp_path / "plain.yaml").write_text("{name: a, data: data}")
    refused(fedvox("site", "ledger", "show", "plain.yaml", cwd=tmp_path), "names no ledger", "policy.epsilon")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("run", "private.yaml", "--data", "data", "--name", "new"), "--start-from RUN"),
        (
            ("run", "private.yaml", "--data", "data", "--name", "new", "--start-from", "runs/private"),
            "was trained on patients",
        ),
        (
            ("run", "public.yaml", "--data", "open", "--name", "new", "--start-from", "runs/public"),
            "leave it out",
        ),
        (("init", "other.yaml", "--start-from", "runs/nowhere"), "is not a run folder"),
        (("init", "private.yaml", "--start-from", "runs/public"), "private.yaml exists"),
        (("init", "tight.yaml", "--start-from", "runs/public", "--epsilon", "1e-9"), "epsilon"),
    ],
)
def test_what_cannot_be_meant_is_refused(story, words, fragment):
    folder, _ = story
    refused(fedvox("study", *words, cwd=folder), fragment)
    assert not (folder / "runs" / "new").exists()


def test_the_page_shows_commands_that_are_run_here():
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    shown = re.findall(r"^ {7,}fedvox (\w+ \w+(?: \w+(?= \w+\.yaml))?)", page, re.MULTILINE)
    assert set(shown) == {
        "study init",
        "study check",
        "site ledger create",
        "site ledger show",
        "site ledger verify",
        "site ledger export",
    }


def test_a_public_model_that_is_told_its_sites_is_refused_for_another_number_of_them(tmp_path, story):
    folder, _ = story
    public = RunFolder.open(folder / "runs" / "public")
    content = yaml.safe_load(public.study_file.read_text())
    content["diffusion"]["model"]["condition"] = {"kind": "site", "dropout": 0.1}
    shutil.copytree(public.path, tmp_path / "told")
    study = parse(Study, content, "told")
    (tmp_path / "told" / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    for manifest in (tmp_path / "told" / "checkpoints").glob("*/manifest.json"):
        manifest.write_text(manifest.read_text().replace(public.study().digest, study.digest))
    words = ("--start-from", "told", "--site", "north", "--site", "south")
    refused(fedvox("study", "init", "mine.yaml", *words, cwd=tmp_path), "which of 1 sites", "{kind: none}")


def test_a_study_of_one_site_is_told_no_site(tmp_path):
    for number, kind in ((1, "none"), (2, "site")):
        sites = [word for index in range(number) for word in ("--site", ("no", "1")[index])]
        assert fedvox("study", "init", f"{number}.yaml", *sites, cwd=tmp_path).returncode == 0
        content = yaml.safe_load((tmp_path / f"{number}.yaml").read_text())
        assert content["diffusion"]["model"]["condition"]["kind"] == kind
