"""What the coordinator and its sites refuse over the network, while the study goes on.

Three hosts of sites: two do their work, the third lies, floods, and is at last thrown out. `make e2e`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.installation import AUTHORITY_FILE, NODE_KEY
from deploy.app_bundle import write_bundle
from deploy.authority import Authority
from deploy.nginx import LARGEST_BODY
from deploy.processes import SERVER, flower_home
from server.coordinator import Coordinator
from tests.e2e.hosts import ENVIRONMENT, FEDVOX, NETWORK, call, hospitals, needs_hosts
from tests.e2e.light_site import LIES
from tests.small_federation import small_study

pytestmark = needs_hosts

SITES = ("north", "south", "west")
TRAINING = {"local_steps": 2, "batch_size": 2}
MOST_CONNECTIONS = 64  # of one address; see deploy/nginx.py
REASONS = {  # of the lies that are reports; the others are as good as no answer
    "nan": "is not finite",
    "far": "moved by",
    "shape": "expected",
    "extra": "not asked for",
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    study = small_study(
        SITES,
        codec__training={**TRAINING, "rounds": len(LIES)},
        diffusion__training={**TRAINING, "rounds": 1},
        codec__model__discriminator=None,
        federation={"sites": list(SITES), "min_sites": 2, "round_deadline_s": 120, "round_attempts": 1},
    )
    with hospitals(folder, study.model_dump(mode="json", exclude_none=True), "fvr") as made:
        made.start_server()
        for site in ("north", "south"):
            made.start_agent(site)
            made.start_connection(site)
        yield made


def inside(deployment, host, *words, timeout=60):
    """Run a program on a host; return the finished process."""
    space = deployment.hosts.namespace(host)
    return subprocess.run(
        ["ip", "netns", "exec", space, *map(str, words)],
        capture_output=True, text=True, timeout=timeout, check=False, cwd=deployment.folder, env=ENVIRONMENT,
    )  # fmt: skip


def run_study(deployment, name):
    """Start a run of the study; return its events' file."""
    words = ("study", "run", "study.yaml", "--server", "--port", 8000, "--name", name, "--json")
    deployment.start("coordinator", "study", *words)
    return deployment.folder / "runs" / name / "events.jsonl"


def events_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def rounds_of(path):
    return [e for e in events_of(path) if e["event"] == "round_finished"]


@contextlib.contextmanager
def hidden(*places):
    """Folders are elsewhere: whoever opens a file of them now fails."""
    for place in places:
        place.rename(place.with_name(f"{place.name}-hidden"))
    try:
        yield
    finally:
        for place in places:
            place.with_name(f"{place.name}-hidden").rename(place)


# From an address of its own, so that no site's requests count: 1000 connections, each with a request whose
# body never comes. Prints how many were opened and how they were answered, and holds them until stdin ends.
FLOOD = """
import collections, json, socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
held = []
for _ in range(1000):
    raw = socket.create_connection((sys.argv[1], 443), timeout=20, source_address=(sys.argv[3], 0))
    held.append(context.wrap_socket(raw, server_hostname=sys.argv[1]))
    held[-1].sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 9\\r\\n\\r\\n")
answers = collections.Counter()
for one in held:
    one.settimeout(0.05)
    try:
        answers[one.recv(1000)[:12].decode() or "closed"] += 1
    except TimeoutError:
        answers["none"] += 1
    except OSError:
        answers["closed"] += 1
print(json.dumps({"opened": len(held), **answers}), flush=True)
sys.stdin.read()
"""

SLOW = """
import socket, ssl, sys, time
context = ssl.create_default_context(cafile=sys.argv[2])
slow = context.wrap_socket(socket.create_connection((sys.argv[1], 443)), server_hostname=sys.argv[1])
started, closed = time.monotonic(), False
slow.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\\r\\nHost: x\\r\\n")
try:
    while time.monotonic() < started + 60:
        slow.sendall(b"X-A: b\\r\\n")
        time.sleep(1)
        slow.settimeout(0.01)
        try:
            if closed := slow.recv(1000) == b"":
                break
        except TimeoutError:
            pass
except OSError:
    closed = True
print(time.monotonic() - started if closed else "held on to")
"""

LARGE = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
connection = http.client.HTTPSConnection(sys.argv[1], 443, timeout=30, context=context)
connection.putrequest("POST", "/v1/fleet/push-object")
connection.putheader("Content-Length", str(9 << 20))
connection.endheaders()
print(connection.getresponse().status)
"""


def test_lies_and_floods_are_refused_and_the_study_goes_on(deployment):
    coordinator = deployment.hosts.address("coordinator")
    authority = deployment.folder / "west" / AUTHORITY_FILE
    deployment.start_light("west", "every")
    path = run_study(deployment, "lies")
    deployment.wait_for(lambda: rounds_of(path), 200, "a first round")

    with flood(deployment, "west", coordinator, authority) as answers:
        assert answers.pop("opened") == 1000
        assert answers.pop("none", 0) <= MOST_CONNECTIONS
        assert answers.pop("HTTP/1.1 503") > 900
        before = len(rounds_of(path))
        said = inside(
            deployment, "north", "curl", "-f", "--cacert", authority, f"https://{coordinator}/health"
        )
        assert said.returncode == 0, said.stderr
        deployment.wait_for(lambda: len(rounds_of(path)) > before, 200, "a round while all are held")
    assert inside(deployment, "north", sys.executable, "-c", LARGE, coordinator, authority).stdout == "413\n"
    assert LARGEST_BODY == "8m"
    said = ("-s", "-o", "/dev/null", "-w", "%{http_code}")
    plain = inside(deployment, "north", "curl", *said, f"http://{coordinator}:443/")
    assert plain.stdout == "400"
    slow = inside(deployment, "south", sys.executable, "-c", SLOW, coordinator, authority, timeout=90)
    assert 8 < float(slow.stdout) < 15, slow.stderr  # it was closed when the time for a header was over

    deployment.finished(600)
    events = events_of(path)
    rounds = rounds_of(path)
    assert len(rounds) == len(LIES) + 1
    assert all({"north", "south"} <= e["sites"].keys() for e in rounds)
    refused = [e for e in events if e["event"] == "report_rejected"]
    assert [e["site"] for e in refused] == ["west"] * len(REASONS)
    for event, reason in zip(refused, REASONS.values(), strict=True):
        assert reason in event["reason"]
    missing = [e["site"] for e in events if e["event"] == "site_missing"]
    assert missing == ["west"] * (len(LIES) - len(REASONS))
    assert "west" in rounds[-1]["sites"]  # once it is honest it is taken
    manifest = json.loads((path.parent / "synthetic" / "manifest.json").read_text())
    assert manifest["sites"]["incomplete"] == ["west"]
    floods = re.findall(r"flood: (.*)", deployment.running["west-light"].log.read_text())
    assert len(floods) >= 2 * len(LIES)
    assert all(said.startswith("413") and "E_DISK" in said for said in floods)
    assert "E_DISK: connection" in deployment.running["server"].log.read_text(errors="replace")


@contextlib.contextmanager
def flood(deployment, host, coordinator, authority):
    """Hold a thousand connections from a second address of a host's network; yield how they were answered."""
    address = f"{NETWORK}.99"
    inner = f"{deployment.hosts.bridge}i{deployment.hosts.names.index(host)}"
    assert inside(deployment, host, "ip", "addr", "add", f"{address}/24", "dev", inner).returncode == 0
    process = subprocess.Popen(
        ["ip", "netns", "exec", deployment.hosts.namespace(host),
         sys.executable, "-c", FLOOD, coordinator, authority, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        yield json.loads(process.stdout.readline())
        assert process.poll() is None  # it held them until now
    finally:
        process.stdin.close()
        process.wait(30)


def test_neither_an_unknown_key_nor_another_authority_is_let_in(deployment, tmp_path):
    """Somebody who has all of a site's files but its node key; and, before, an authority of his own."""
    stranger = deployment.folder / "stranger"
    left_out = shutil.ignore_patterns("state", "run", "flower")
    shutil.copytree(deployment.folder / "west", stranger, ignore=left_out)
    key = ec.generate_private_key(ec.SECP384R1())
    (stranger / NODE_KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    refused = logged(deployment, "server", "No SuperNode found with the given public key")

    right = (stranger / AUTHORITY_FILE).read_bytes()
    Authority.create(tmp_path, "somebody else")
    shutil.copy(tmp_path / "ca.crt", stranger / AUTHORITY_FILE)
    check = inside(deployment, "west", FEDVOX, "site", "check", "stranger/site.yaml", "--network")
    assert check.returncode != 0
    assert "E_TLS_INSPECTION" in check.stdout + check.stderr
    connect = ("west", "stranger", "site", "connect", "stranger/site.yaml", "--port", 19999)
    log = deployment.start(*connect).log
    ends = ("Connection attempt failed", "it is started again")
    deployment.wait_for(lambda: any(end in log.read_text() for end in ends), 60, "no connection")
    deployment.running["stranger"].stop()
    assert not refused()  # it never spoke to the server

    (stranger / AUTHORITY_FILE).write_bytes(right)
    deployment.start(*connect)
    deployment.wait_for(refused, 60, "the refusal of its key")
    deployment.wait_for(lambda: "code: 2004" in log.read_text(), 60, "its being told")
    deployment.running["stranger"].stop()


def logged(deployment, name, text):
    """Return a question: whether a process has written a text from now on."""
    log = deployment.running[name].log
    start = log.stat().st_size
    return lambda: text.encode() in log.read_bytes()[start:]


@contextlib.contextmanager
def changed_meanwhile(deployment, site):
    """No round ends while a site's people change something; its agent is started anew behind it."""
    held = deployment.running["north-agent"].process.pid
    deployment.running[f"{site}-agent"].stop()
    os.killpg(held, signal.SIGSTOP)
    try:
        yield
        deployment.start_agent(site)
    finally:
        os.killpg(held, signal.SIGCONT)


def test_what_a_site_has_not_agreed_to_is_refused_with_its_volumes_away_and_the_study_goes_on(deployment):
    """Nobody approved the study; it would do with fewer sites than the policy asks; the cohort is of one."""
    deployment.running["west-light"].stop()
    west, volumes = deployment.folder / "west", deployment.folder / "data/west"
    for approval in (west / "state" / "approvals").iterdir():
        approval.unlink()
    for site in ("north", "south"):
        deployment.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", 9)
    allowed = (west / "site.yaml").read_text()
    assert "min_sites: 2 " in allowed

    def codes():
        failed = [e for e in events_of(path) if e["event"] == "site_failed"]
        assert {e["site"] for e in failed} <= {"west"}
        return [e["code"] for e in failed]

    with hidden(volumes):
        deployment.start_agent("west")
        deployment.start_connection("west")
        path = run_study(deployment, "refused")
        deployment.wait_for(codes, 200, "E_UNAPPROVED")
    with changed_meanwhile(deployment, "west"):
        deployment.fedvox("west", "site", "approve", "west/site.yaml", "--yes", "--runs", 9)
        (west / "site.yaml").write_text(allowed.replace("min_sites: 2 ", "min_sites: 3 "))
        volumes.rename(volumes.with_name("west-hidden"))
    deployment.wait_for(lambda: "E_CONFIG" in codes(), 200, "E_CONFIG")
    with changed_meanwhile(deployment, "west"):
        (west / "site.yaml").write_text(allowed)
        volumes.mkdir()
        (volumes / "alone.nii.gz").touch()  # who opens it says that it cannot be read
    deployment.finished(400)

    log = deployment.running["west-agent"].log.read_text()
    assert "goes on with 2 sites, and this one asks for 3" in log
    assert "1 patients, and policy.min_patients is 5" in log
    assert list(dict.fromkeys(codes())) == ["E_UNAPPROVED", "E_CONFIG", "E_DATA"]
    assert all(e["sites"].keys() == {"north", "south"} for e in rounds_of(path))
    assert len(rounds_of(path)) == len(LIES) + 1
    assert not (west / "state" / "cache").exists()  # no volume was opened

    shutil.rmtree(volumes)
    volumes.with_name("west-hidden").rename(volumes)
    with changed_meanwhile(deployment, "west"):
        pass  # it takes part from now on


def test_a_round_that_is_over_is_not_done_again(deployment):
    """A coordinator that has lost its newest checkpoints asks for a round that its sites know is over."""
    run = deployment.folder / "runs" / "refused"
    last = len(LIES)
    for name in (f"codec-{last:04d}", "diffusion-0001"):
        shutil.rmtree(run / "checkpoints" / name)
    volumes = [deployment.folder / "data" / site for site in SITES]
    readers = ("north", "south")  # west has no cache yet
    caches = [deployment.folder / site / "state" / "cache" for site in readers]
    with hidden(*volumes, *caches):  # no volume is opened to refuse
        run_study(deployment, "refused")
        study = deployment.running["study"].process
        deployment.wait_for(lambda: study.poll() is not None, 300, "the end of the study")
    assert study.returncode != 0
    replayed = [e for e in events_of(run / "events.jsonl") if e.get("code") == "E_REPLAY"]
    assert {e["site"] for e in replayed} == set(SITES)  # west was asked then too, and refused


def test_code_that_no_site_installed_runs_nowhere(deployment, tmp_path):
    app = tmp_path / "fedvox"
    write_bundle(app)
    (app / "client" / "app.py").write_text((app / "client" / "app.py").read_text() + "\nprint('EVIL')\n")
    coordinator = Coordinator(deployment.folder / "coordinator")
    run = deployment.folder / "runs" / "refused"
    settings = f'run-folder="{run}" coordinator="{coordinator.folder.resolve()}"'
    flwr = ("env", f"FLWR_HOME={flower_home(coordinator.folder, 8000)}", FEDVOX.with_name("flwr"))
    space = deployment.hosts.namespace("coordinator")
    words = ("run", app, SERVER, "--run-config", settings, "--format", "json")
    answer = json.loads(call(*flwr, *words, namespace=space))
    assert answer["success"]
    logs = [deployment.running[f"{site}-connection"].log for site in ("north", "south")]
    refused = "FAB verification failed"
    deployment.wait_for(lambda: all(refused in log.read_text() for log in logs), 120, "both refusals")
    call(*flwr, "stop", answer["run-id"], SERVER, namespace=space)
    assert not any("EVIL" in log.read_text() for log in logs)


def test_a_site_that_is_revoked_amid_a_study_is_let_out_and_the_study_goes_on(deployment):
    path = run_study(deployment, "revoked")
    deployment.wait_for(
        lambda: "west" in str([e["sites"] for e in rounds_of(path)]), 200, "a round with west"
    )
    ended = logged(deployment, "west-connection", "it is started again")
    refused = logged(deployment, "server", "No SuperNode found with the given public key")
    deployment.fedvox("coordinator", "provision", "revoke", "west")
    deployment.wait_for(ended, 120, "the end of its connection")
    deployment.wait_for(refused, 120, "its return being refused")
    deployment.finished(400)
    words = ("study", "status", "--run", "runs/revoked", "--json")
    assert json.loads(deployment.fedvox("coordinator", *words))["went_on_without"] == ["west"]
    away = [e["said"] for e in events_of(path) if e["event"] == "site_missing" and e["site"] == "west"]
    assert away[-1] == "revoked or not enrolled"
    took_part = ["west" in e["sites"] for e in rounds_of(path)]
    assert took_part == sorted(took_part, reverse=True)  # once out, it never came back
    assert took_part[0]
    assert not took_part[-1]
    assert all({"north", "south"} <= e["sites"].keys() for e in rounds_of(path))
