"""Coordinator and sites as separate processes over TLS on this machine: the runbook, one study."""

import json

import pytest

from common.seal import PublicSealKey
from deploy.authority import days_left
from server.coordinator import Coordinator
from tests.e2e.hosts import Deployment
from tests.small_federation import small_study, write_volumes

SHORT = {"rounds": 1, "local_steps": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    study = small_study(
        ("north", "south"),
        codec__training=SHORT,
        diffusion__training=SHORT,
        codec__model__discriminator=None,
    )
    for seed, site in enumerate(study.federation.sites):
        write_volumes(folder / "data" / site, 3, seed)
    made = Deployment(folder, study.model_dump(mode="json", exclude_none=True))
    made.provision()
    made.start_all()
    yield made
    made.stop()


def test_a_study_of_separate_processes_ends_in_volumes_with_a_sealed_manifest(deployment):
    deployment.run_study()
    deployment.finished()
    events = [json.loads(line) for line in deployment.events().splitlines()]
    assert [e["event"] for e in events if e["event"] != "site_failed"] == [
        "run_started",
        "round_finished",
        "stage_finished",
        "round_finished",
        "stage_finished",
        "run_finished",
    ]
    assert all(set(e["sites"]) == {"north", "south"} for e in events if e["event"] == "round_finished")
    folder = deployment.folder / "runs" / "small" / "synthetic"
    manifest = (folder / "manifest.json").read_bytes()
    assert len(json.loads(manifest)["volumes"]) == 32
    key: PublicSealKey = Coordinator(deployment.folder / "coordinator").key.public
    key.verify("manifest", manifest, bytes.fromhex((folder / "manifest.seal").read_text()))
    assert days_left(deployment.folder / "coordinator" / "server.crt") > 89
    for log in deployment.folder.glob("*-agent.log"):
        assert "refused" not in log.read_text()
