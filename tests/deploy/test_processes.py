"""What keeps a coordinator's code and ports away from hospitals: the guarded bundle, the proxy, the flags."""

import dataclasses
import hashlib
import importlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import yaml
from flwr.app import Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from deploy.app_bundle import bundle_files, bundle_hash, write_bundle
from deploy.authority import Authority
from deploy.guarded_supernode import GuardError, guard
from deploy.nginx import nginx_config
from deploy.processes import executor, proxy, superlink, supernode
from server.coordinator import Coordinator
from tests.small_federation import small_study

SITES = ("north", "south")


@pytest.fixture
def coordinator(tmp_path):
    text = yaml.safe_dump(small_study(SITES).model_dump(mode="json", exclude_none=True))
    return Coordinator.create(tmp_path / "coordinator", text, "fed.example.org:443")


def test_the_bundle_is_the_same_bytes_wherever_it_is_packed_and_holds_no_more_than_code(tmp_path):
    write_bundle(tmp_path / "fedvox")
    assert hashlib.sha256(build_fab_from_disk(tmp_path / "fedvox")).hexdigest() == bundle_hash()
    suffixes = {Path(name).suffix for name in bundle_files()}
    assert suffixes == {".py", ".toml"}
    assert {name.split("/")[0] for name in bundle_files()} == {"common", "client", "server", "pyproject.toml"}


def test_one_changed_byte_of_code_is_another_bundle(tmp_path):
    write_bundle(tmp_path / "fedvox")
    path = tmp_path / "fedvox" / "client" / "app.py"
    path.write_text(path.read_text() + "\n")
    assert hashlib.sha256(build_fab_from_disk(tmp_path / "fedvox")).hexdigest() != bundle_hash()


@dataclasses.dataclass(frozen=True)
class Fab:
    content: bytes
    verifications: dict


@pytest.fixture
def flower(monkeypatch):
    """Flower's modules with a connection that hands out whatever the test asks for."""
    inside = importlib.import_module("flwr.supernode.start_client_internal")
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    started, received, ended = {}, [], []
    monkeypatch.setattr(os, "_exit", ended.append)

    class Connection:
        def __enter__(self):
            get_fab = lambda fab_hash, run_id: Fab(b"app", {})  # noqa: E731
            return (1, received.pop, lambda *words: (set(), ""), None, get_fab, None, None, None)

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(inside, "http_request_response", lambda *words, **options: Connection())
    monkeypatch.setattr(inside, "_verify_fab", inside._verify_fab)
    monkeypatch.setattr(inside, "_push_messages", inside._push_messages)
    monkeypatch.setattr(command, "start_client_internal", lambda **options: started.update(options))
    return SimpleNamespace(inside=inside, command=command, started=started, received=received, ended=ended)


def test_an_app_whose_hash_is_not_allowed_is_not_run(flower):
    guard({hashlib.sha256(b"app").hexdigest()})
    with flower.inside.http_request_response() as opened:
        fab = opened[4]("hash", 7)
    assert fab.verifications["valid_license"]  # Flower asks for it before it asks whether the app is verified
    assert flower.inside._verify_fab(fab, {"site": "allow-list"})
    assert not flower.inside._verify_fab(Fab(b"app changed", fab.verifications), {"site": "allow-list"})
    flower.command.start_client_internal(trusted_entities=None)
    assert flower.started["trusted_entities"]  # or Flower would verify nothing
    assert flower.ended == [1]  # Flower only returns, and its threads would keep the process


def asked(run_id):
    """Return a message of a run, as Flower gives it to a node, and that again as the node stores it."""
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__.update(_run_id=run_id, _message_id=f"order of run {run_id}")
    return message, get_object_tree(message)


@pytest.mark.usefixtures("flower_process")
def test_an_answer_that_nobody_waits_for_is_not_taken_for_the_one_that_is_due(flower):
    """A courier's failure may come when its run is over: Flower then stays one answer behind for ever."""
    guard({"x"})
    store = InMemoryObjectStore()
    state = InMemoryNodeState(store)
    (old, _), (new, tree) = asked(1), asked(2)
    flower.received.append((new, tree))
    with flower.inside.http_request_response() as (_, receive, send, *_):
        receive()
        sent = []

        def noting(message, *rest):
            sent.append(message.metadata.reply_to_message_id)
            return send(message, *rest)

        def answer(message):
            reply = Message(RecordDict(), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            store.preregister(1, get_object_tree(reply))
            state.store_message(reply)

        answer(old)
        later = threading.Timer(0.3, answer, (new,))
        later.start()
        flower.inside._push_messages(
            state=state, object_store=store, send=noting, push_object=lambda *words: None
        )
        later.join()
    assert sent == ["order of run 1", "order of run 2"]


@pytest.mark.parametrize("missing", ["http_request_response", "_verify_fab", "_push_messages"])
def test_a_flower_with_another_inside_starts_nothing(flower, monkeypatch, missing):
    monkeypatch.delattr(flower.inside, missing)
    with pytest.raises(GuardError, match=missing):
        guard({"x"})


def test_flower_still_asks_for_verification_before_it_runs_anything():
    """What the guard rests on, in the source of the pinned version."""
    source = Path(importlib.import_module("flwr.supernode.start_client_internal").__file__).read_text()
    asked, stored = source.index("_verify_fab(fab, trusted_entities)"), source.index("state.store_fab(")
    assert asked < stored


def test_the_proxy_lets_two_paths_through_and_bounds_what_it_takes(coordinator):
    text = nginx_config(coordinator.folder, coordinator.address, 8000)
    proxied = [line.split("{")[0].strip() for line in text.splitlines() if "proxy_pass" in line]
    assert proxied == ["location /v1/fleet/", "location = /health"]
    for line in (
        "location / { return 404; }",
        "client_max_body_size 8m;",
        "error_page 500 =503 @busy;",
        "limit_conn sites",
        "listen 443 ssl;",
    ):
        assert line in text


class Failing(BaseHTTPRequestHandler):
    """Answers the status that the path names."""

    def do_GET(self):
        self.send_error(int(self.path.rpartition("/")[2]))

    def log_message(self, *words):
        pass


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_a_server_that_fails_for_a_moment_looks_busy_to_sites(tmp_path):
    """Flower's nodes give up for good on 500, and try again on 503."""
    home = tmp_path / "coordinator"
    text = yaml.safe_dump(small_study(SITES).model_dump(mode="json", exclude_none=True))
    made = Coordinator.create(home, text, "localhost:18555")
    Authority.create(home, "test").issue("localhost")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.crt", home / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    nginx = subprocess.Popen(proxy(made, server.server_address[1]).words, stderr=subprocess.DEVNULL)
    trusted = ssl.create_default_context(cafile=home / "ca.crt")
    try:
        with httpx.Client(
            base_url="https://localhost:18555/v1/fleet/",
            verify=trusted,
            transport=httpx.HTTPTransport(verify=trusted, retries=8),
        ) as client:
            answers = {status: client.get(str(status)).status_code for status in (500, 412, 413, 502)}
    finally:
        nginx.terminate()
        nginx.wait()
        server.shutdown()
    assert answers == {500: 503, 412: 412, 413: 413, 502: 502}


def test_flower_s_server_listens_on_loopback_with_the_safe_flags(coordinator):
    link = superlink(coordinator, 8000)
    words = " ".join(link.words)
    for flag in (
        "--host 127.0.0.1",
        "--enable-supernode-auth",
        "--isolation process",
        "--superexec-auth-secret-file",
        "--disable-runtime-dependency-installation",
        "--database",
    ):
        assert flag in words
    assert "--insecure" not in words
    assert link.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    secret = coordinator.folder / "executor.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert str(secret) in " ".join(executor(coordinator, 8000).words)


def test_a_site_s_connection_is_guarded_and_knows_nothing_but_the_agent_s_socket(tmp_path):
    node = supernode(tmp_path, "fed.example.org:443", tmp_path / "agent.sock", 9094)
    assert node.words[1:4] == ("-m", "deploy.guarded_supernode", bundle_hash())
    assert f'agent-socket="{tmp_path / "agent.sock"}"' in node.words
    assert not any("state" in word or "site.yaml" in word for word in node.words)


def test_each_process_is_started_again_by_itself(tmp_path):
    """One that dies does not take the other with it; both end when their keeper is told to stop."""
    code = (
        "import sys, time; from pathlib import Path; "
        "from deploy import supervisor; from deploy.processes import Process; supervisor.RESTART_S = 0.1; "
        "mark = lambda name, then: Process((sys.executable, '-c', "
        'f\'import os, time; open(\\"{name}\\", \\"a\\").write(\\"x\\"); {then}\'), {}); '
        "supervisor.keep_running({'short': mark('short', ''), 'long': mark('long', 'time.sleep(60)')}, print)"
    )
    keeper = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    short, long = tmp_path / "short", tmp_path / "long"
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and not (short.exists() and len(short.read_text()) >= 3):
        time.sleep(0.1)
    keeper.terminate()
    said, _ = keeper.communicate(timeout=30)
    assert len(short.read_text()) >= 3
    assert long.read_text() == "x"
    assert "short ended with 0" in said
    assert "long" not in said


def test_a_proxy_is_for_the_way_out_and_never_for_loopback(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    made = supernode(tmp_path, "fed.example.org:443", tmp_path / "agent.sock", 9094)
    assert made.environment["NO_PROXY"] == "intranet.example,localhost,127.0.0.1"
    assert "HTTPS_PROXY" not in made.environment  # inherited as it is
    monkeypatch.delenv("NO_PROXY")
    again = supernode(tmp_path, "fed.example.org:443", tmp_path / "agent.sock", 9094)
    assert again.environment["NO_PROXY"] == "localhost,127.0.0.1"
