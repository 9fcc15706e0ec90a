"""Four hosts: a coordinator behind nginx and three sites with breast phantoms, in a namespace each.

The runbook is followed as written, a study runs to its end, then again with one kill -9 per process, and what
a site can reach is probed from its own host. `make e2e`; skipped where namespaces or nginx are missing.
"""

import json
import subprocess
import sys
import time

import pytest

from common.frozen import load_yaml
from deploy.authority import Authority
from experiments.demo import STUDY_FILE
from experiments.demo_patients import SEED
from experiments.phantom.hospital import HOSPITALS
from experiments.phantom.writer import write_hospital
from tests.e2e.hosts import hospitals, needs_hosts

pytestmark = needs_hosts

SITES = ("north", "south", "west")
TRAINING = {"rounds": 2, "local_steps": 4, "batch_size": 2}


def study():
    """The demo's study of breast phantoms, in a size for a test."""
    content = load_yaml(STUDY_FILE)
    content.pop("simulation")
    for stage in ("codec", "diffusion"):
        content[stage]["training"] |= TRAINING
    content["codec"]["model"] |= {"discriminator": None}
    content["diffusion"]["model"]["denoiser"] = {"channels": [8, 32], "attention": [False, False]}
    content["diffusion"]["model"]["sampler"] = {"kind": "euler", "num_steps": 2}
    content["name"] = "small"
    content["federation"] = {"sites": list(SITES), "round_deadline_s": 240, "round_attempts": 3}
    return content


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    for site, hospital in zip(SITES, HOSPITALS, strict=True):
        phantoms = hospital.model_copy(update={"num_patients": 6})
        write_hospital(phantoms, folder / "data" / site, SEED)
    with hospitals(folder, study(), "fvh") as made:
        for site in SITES:
            made.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", 10)
        made.start_all()
        yield made


@pytest.fixture(scope="module")
def undisturbed(deployment):
    return weights(deployment, "small")


def weights(deployment, run):
    """Digest of a finished run's model."""
    status = deployment.fedvox("coordinator", "study", "status", "--run", f"runs/{run}", "--json")
    return json.loads(status)["model"]


def test_a_study_over_the_network_ends_and_says_what_it_moved(deployment):
    started = time.monotonic()
    deployment.run_study()
    deployment.finished()
    status = json.loads(deployment.fedvox("coordinator", "study", "status", "--run", "runs/small", "--json"))
    assert status["state"] == "finished"
    assert (deployment.folder / "runs" / "small" / "synthetic" / "manifest.seal").is_file()
    print(f"\n{time.monotonic() - started:.0f} s, {status['bytes']} bytes of tensors, {status['problems']}")


PROBE = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
for path in sys.argv[3:]:
    connection = http.client.HTTPSConnection(sys.argv[1], 443, timeout=10, context=context)
    connection.request("POST" if "/v1/" in path else "GET", path)
    print(path, connection.getresponse().status)
"""


def test_from_a_site_only_what_is_documented_answers(deployment):
    hosts = deployment.hosts
    inside = ["ip", "netns", "exec", hosts.namespace("north")]
    authority = deployment.folder / "north" / "ca.crt"
    paths = (
        "/health",
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/",
    )
    probe = subprocess.run(
        [*inside, sys.executable, "-c", PROBE, hosts.address("coordinator"), authority, *paths],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = dict(line.split() for line in probe.stdout.splitlines())
    assert answers.pop("/health") == "200"
    assert set(answers.values()) == {"404"}
    scan = (
        "import socket, sys\n"
        "for port in range(1, 65536):\n"
        "    s = socket.socket(); s.settimeout(0.5)\n"
        "    if s.connect_ex((sys.argv[1], port)) == 0: print(port)\n"
        "    s.close()\n"
    )
    opened = subprocess.run(
        [*inside, sys.executable, "-c", scan, hosts.address("coordinator")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert opened.stdout.split() == ["443"]


def test_a_client_that_does_not_know_the_authority_is_not_fooled_by_another(deployment, tmp_path):
    stranger = Authority.create(tmp_path, "stranger")
    assert stranger.pem != (deployment.folder / "north" / "ca.crt").read_text()
    address = deployment.hosts.address("coordinator")
    inside = ["ip", "netns", "exec", deployment.hosts.namespace("north")]
    probe = subprocess.run(
        [*inside, sys.executable, "-c", PROBE, address, tmp_path / "ca.crt", "/health"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "CERTIFICATE_VERIFY_FAILED" in probe.stderr


@pytest.mark.parametrize("victim", ["north-agent", "south-connection", "server", "study"])
def test_a_process_that_is_killed_changes_no_bit_of_the_result(deployment, undisturbed, victim):
    name = f"after-{victim}"
    run = ("study", "run", "study.yaml", "--server", "--port", 8000, "--name", name, "--json")
    deployment.start("coordinator", "study", *run)
    events = deployment.folder / "runs" / name / "events.jsonl"
    deployment.wait_for(
        lambda: events.is_file() and "round_finished" in events.read_text(), 120, "a first round"
    )
    deployment.running[victim].kill()
    time.sleep(1)
    if victim.endswith("-agent"):
        deployment.start_agent(victim.removesuffix("-agent"))
    elif victim.endswith("-connection"):
        deployment.start_connection(victim.removesuffix("-connection"))
    elif victim == "server":
        deployment.start_server()
    else:
        deployment.start("coordinator", "study", *run)
    started = time.monotonic()
    deployment.finished(400)
    print(f"\n{victim} killed: finished {time.monotonic() - started:.0f} s after")
    assert weights(deployment, name) == undisturbed
