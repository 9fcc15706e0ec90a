"""What keeps a coordinator's code and ports away from hospitals: the guarded bundle, the proxy, the flags."""

import hashlib
import shutil
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from flwr.cli.build import build_fab_from_disk

from deploy.app_bundle import bundle_files, bundle_hash, write_bundle
from deploy.authority import Authority
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
