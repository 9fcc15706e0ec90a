"""docs/hospitals.md as it stands, on this machine: separate processes over TLS, one study, to its end."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from deploy.authority import days_left
from server.coordinator import Coordinator
from tests.e2e.hosts import Deployment
from tests.small_federation import small_study, write_volumes

PAGE = Path(__file__).parents[2] / "docs" / "hospitals.md"
SITES = ("north", "south")
SHORT = {"rounds": 1, "local_steps": 2, "batch_size": 2}
MOST_COMMANDS = 12


def commands():
    """The page's commands, in order."""
    lines = re.findall(r"^ {4}(fedvox .*)$", PAGE.read_text(), re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_a_newcomer_needs_few_commands():
    assert 5 < len(commands()) <= MOST_COMMANDS


def smaller_study():
    study = small_study(
        SITES,
        codec__training=SHORT,
        diffusion__training=SHORT,
        codec__model__discriminator=None,
        name="study",
    )
    return study.model_dump(mode="json", exclude_none=True)


def at_each_site(words):
    """The command of site north for every site."""
    return [[word.replace("north", site) for word in words] for site in SITES]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """Somebody who follows the page; the study is made smaller once it is written."""
    folder = tmp_path_factory.mktemp("hospitals")
    for seed, site in enumerate(SITES):
        write_volumes(folder / "data" / site, 6, seed)
    made = Deployment(folder, smaller_study())
    try:
        for words in commands():
            follow(made, [word.replace("/data/", "data/") for word in words])
        yield made
    finally:
        made.stop()


def follow(made, words):
    """Do one command, at the host or hosts it is for."""
    if words[0] == "site":
        for own, site in zip(at_each_site(words), SITES, strict=True):
            follow_at_site(made, site, own)
    elif words[:2] == ["server", "start"]:
        made.start("coordinator", "server", *words, "--no-proxy", "--port", made.port)
    elif words[:2] == ["study", "run"]:
        made.start("coordinator", "study", *words, "--port", made.port)
        made.finished()
    else:
        made.fedvox("coordinator", *[made.address if ":" in word else word for word in words])
    if words[:2] == ["study", "init"]:
        (made.folder / "study.yaml").write_text(yaml.safe_dump(made.study))


def follow_at_site(made, site, words):
    verb = words[1]
    if verb == "install":
        fingerprint = hashlib.sha256((made.folder / words[2]).read_bytes()).hexdigest()
        made.fedvox(site, *[fingerprint if word == "FINGERPRINT" else word for word in words])
    elif verb == "approve":
        made.fedvox(site, *words, "--yes")
    elif verb == "check":
        made.fedvox(site, *words)
    elif verb == "start":
        made.start(site, f"{site}-agent", *words)
    else:
        made.start(site, f"{site}-connection", *words, "--port", 19094 + SITES.index(site))


def test_following_the_page_ends_in_volumes_with_a_sealed_manifest(followed):
    events = [json.loads(line) for line in followed.events().splitlines()]
    assert [e["event"] for e in events] == [
        "run_started",
        "round_finished",
        "stage_finished",
        "round_finished",
        "stage_finished",
        "run_finished",
    ]
    assert all(set(e["sites"]) == set(SITES) for e in events if e["event"] == "round_finished")
    folder = followed.folder / "runs" / "study" / "synthetic"
    manifest = (folder / "manifest.json").read_bytes()
    assert len(json.loads(manifest)["volumes"]) == 32
    key = Coordinator(followed.folder / "coordinator").key.public
    key.verify("manifest", manifest, bytes.fromhex((folder / "manifest.seal").read_text()))
    assert days_left(followed.folder / "coordinator" / "server.crt") > 89
    for log in followed.folder.glob("*-agent.log"):
        assert "refused" not in log.read_text()


def test_an_operator_can_call_off_an_order_and_is_told_if_there_is_none(followed):
    followed.fedvox("north", "site", "cancel", "north/site.yaml")
    log = followed.running["north-agent"].log
    followed.wait_for(lambda: "there is no order to call off" in log.read_text(), 10, "the agent's answer")
    assert followed.running["north-agent"].process.poll() is None


def test_an_agent_that_is_drained_ends_by_itself(followed):
    followed.fedvox("south", "site", "drain", "south/site.yaml")
    assert followed.running["south-agent"].process.wait(10) == 0
    assert "no new order is taken" in followed.running["south-agent"].log.read_text()


def test_every_process_ends_soon_when_it_is_told_to(followed):
    for name, running in followed.running.items():
        running.process.terminate()
        assert running.process.wait(15) == 0, name
    assert not (followed.folder / "north" / "run" / "agent.sock").exists()
