"""Images and compose files, judged by linters and by what they must not give; no engine runs them here."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CONTAINERS = Path(__file__).parents[2] / "deploy" / "containers"
COMPOSE = sorted(CONTAINERS.glob("compose.*.yaml"))
BIN = Path(sys.executable).parent


def services(name):
    return yaml.safe_load((CONTAINERS / name).read_text())["services"]


def targets(service):
    return {volume["target"] for volume in service.get("volumes", [])} | {
        secret["target"] for secret in service.get("secrets", [])
    }


def lint(*words):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_no_finding():
    lint(BIN / "hadolint", CONTAINERS / "Dockerfile")


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_have_no_high_finding(path):
    lint(BIN / "compose-lint", "check", path)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_every_service_is_shut_in(path):
    for name, service in services(path.name).items():
        user, group = service["user"].split(":")
        assert int(user) >= 10_000, name
        assert int(group) >= 10_000, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}, name
        assert "max-size" in service["logging"]["options"], name


def test_the_agent_has_no_network_and_only_reads_the_data():
    agent = services("compose.site.yaml")["agent"]
    assert agent["network_mode"] == "none"
    (data,) = [volume for volume in agent["volumes"] if volume["target"] == "${FEDVOX_DATA}"]
    assert data["read_only"] is True


def test_the_connection_holds_nothing_of_the_agent_s_and_the_agent_no_node_key():
    site = services("compose.site.yaml")
    own = {"/site/courier/node.key", "/site/courier/flower"}
    assert targets(site["agent"]) & own == set()
    hidden = {"${FEDVOX_DATA}", "/site/state", "${FEDVOX_LEDGER}", "/site/keys/sign.key", "/site"}
    assert targets(site["connection"]) & hidden == set()
    assert own <= targets(site["connection"])


def test_only_the_proxy_s_port_is_published():
    server = services("compose.server.yaml")
    assert [port for service in server.values() for port in service.get("ports", [])] == ["443:443"]
    assert {server[n]["network_mode"] for n in ("superlink", "executor", "proxy")} == {"service:network"}


def test_images_run_as_no_root_and_hold_no_build_tools():
    stages = (CONTAINERS / "Dockerfile").read_text().split("\nFROM ")[1:]
    for stage in stages:
        name = stage.split()[2]
        if name in {"build", "runtime"}:
            continue
        assert "\nUSER 1000" in stage, name
    assert not any(
        tool in stage for stage in stages[1:] for tool in ("build-essential", "gcc", "pip install")
    )
    assert "pip uninstall -y pip" in (CONTAINERS / "Dockerfile").read_text().partition(" AS runtime")[2]
