"""The systemd units, judged by systemd's own tools without being started."""

import re
import shutil
import subprocess

import pytest

from cli.unit_files import write_units
from client.site_config import Compute, SiteConfig
from deploy.processes import program
from deploy.units import server_units, site_units

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing"
)
MOST_EXPOSED = {  # of 10; systemd calls below 3 "OK"
    "fedvox-agent": 2.0,
    "fedvox-connection": 2.5,
    "fedvox-superlink": 2.5,
    "fedvox-executor": 2.5,
    "fedvox-proxy": 3.0,
}


def config(folder, **changes):
    return SiteConfig(
        name="north",
        data="/srv/volumes",
        patients="/srv/table.csv",
        state=folder / "state",
        policy={"epsilon": 8, "ledger": "/var/lib/fedvox/ledger"},
    ).model_copy(update=changes)


@pytest.fixture
def units(tmp_path):
    texts = site_units(program("fedvox"), tmp_path, config(tmp_path)) | server_units(
        program("fedvox"), tmp_path, tmp_path / "runs"
    )
    write_units(tmp_path / "units", texts)
    return tmp_path / "units", texts


@needs_systemd
def test_systemd_takes_them(units):
    folder, texts = units
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(folder / name for name in texts)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [
        line for line in checked.stderr.splitlines() if "fedvox" in line and "not found" not in line.lower()
    ]
    assert not ours, checked.stderr


@needs_systemd
@pytest.mark.parametrize("name", MOST_EXPOSED)
def test_they_are_shut_in(units, name):
    folder, _ = units
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", folder / f"{name}.service"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    exposed = float(re.search(r"exposure level for .*: ([0-9.]+)", judged.stdout)[1])
    assert exposed <= MOST_EXPOSED[name], judged.stdout


def test_the_agent_has_no_network_and_the_connection_none_of_the_agent_s_files(units, tmp_path):
    _, texts = units
    agent, connection = texts["fedvox-agent.service"], texts["fedvox-connection.service"]
    assert "PrivateNetwork=yes" in agent
    assert "RestrictAddressFamilies=AF_UNIX\n" in agent
    hidden = ("/srv/volumes", "/srv/table.csv", "/var/lib/fedvox/ledger")
    for path in (tmp_path / "state", tmp_path / "keys", *hidden):
        assert re.search(rf"InaccessiblePaths=-?{re.escape(str(path))}\n", connection)
    for path in ("/srv/volumes", "/srv/table.csv"):
        assert f"ReadOnlyPaths={path}\n" in agent
    assert "ReadWritePaths=-/var/lib/fedvox/ledger\n" in agent
    assert "User=fedvox-agent" in agent
    assert "User=fedvox-courier" in connection


def test_a_gpu_is_let_in_only_where_it_is_used(tmp_path):
    for gpu in (True, False):
        made = config(tmp_path, compute=Compute(device="cuda" if gpu else "cpu"))
        agent = site_units(program("fedvox"), tmp_path, made)["fedvox-agent.service"]
        assert ("DeviceAllow=/dev/nvidiactl rw" in agent) is gpu
        assert ("PrivateDevices=yes" in agent) is not gpu


def test_the_driver_can_write_where_runs_go(units, tmp_path):
    _, texts = units
    assert f"ReadWritePaths={tmp_path / 'runs'}\n" in texts["fedvox-executor.service"]
    assert str(tmp_path / "runs") not in texts["fedvox-superlink.service"]
