"""Memory of the server as sites become many: 4 and 32 light sites, a model of 50 MB, Flower's real server.

`make load`. Light sites hold real keys and answer with tensors of their own; training is not measured.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from client.installation import install
from common.federation.stage import Stage
from common.order_tensors import OrderTensors
from common.study import load_study
from deploy.authority import Authority
from deploy.study_driver import drive, open_server_run
from server.coordinator import Coordinator
from tests.e2e.hosts import Deployment
from tests.small_federation import small_study

pytestmark = pytest.mark.load

SIZE_MB = 50
FEW, MANY = 4, 32
MOST_GROWTH = 1.10
TRAINING = {"rounds": 2, "local_steps": 1, "batch_size": 2}


class Watch(threading.Thread):
    """Remembers the largest memory of processes, by the word that their command lines hold."""

    def __init__(self, **words):
        super().__init__(daemon=True)
        self.words, self.peak, self.stop = words, dict.fromkeys(words, 0.0), threading.Event()

    def run(self):
        while not self.stop.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes().decode(errors="replace")
                    status = (process / "status").read_text()
                except OSError:
                    continue
                for name, word in self.words.items():
                    if word in line and "VmHWM" in status:
                        megabytes = int(status.partition("VmHWM:")[2].split()[0]) / 1024
                        self.peak[name] = max(self.peak[name], megabytes)


def study_of(sites):
    return small_study(
        sites,
        codec__model__channels=352,
        codec__model__num_res_blocks=1,
        codec__model__discriminator=None,
        codec__training=TRAINING,
        diffusion__training={**TRAINING, "rounds": 1},
        federation={"sites": list(sites), "round_deadline_s": 1500, "round_attempts": 1},
    )


def run_with(folder, num):
    """Return peaks in MB, the database's size and the seconds of a run of ``num`` sites."""
    sites = [f"s{index:02d}" for index in range(num)]
    made = Deployment(folder, study_of(sites).model_dump(mode="json", exclude_none=True))
    (folder / "study.yaml").write_text(yaml.safe_dump(made.study))
    study = load_study(folder / "study.yaml")
    home = folder / "coordinator"
    coordinator = Coordinator.create(home, (folder / "study.yaml").read_text(), made.address)
    authority = Authority.create(home, "many")
    authority.issue("localhost")
    for site in sites:
        kit = coordinator.invite(site, authority.pem)
        enrolment = install(folder / site, kit, {}, folder)
        coordinator.enrol([enrolment])
    size = OrderTensors.of(study, Stage.CODEC).sizes["parameters"] / 1e6
    assert size > SIZE_MB
    watch = Watch(serverapp="flwr-serverapp", superlink="guarded_superlink")
    watch.start()
    try:
        made.start_server()
        log = made.running["server"].log
        made.wait_for(lambda: "sites that may connect" in log.read_text(), 300, "the sites' admission")
        light = [sys.executable, "-m", "tests.e2e.light_site", made.address, "honest"]
        sites_process = subprocess.Popen([*light, *(str(folder / site) for site in sites)])
        started = time.monotonic()
        drive(coordinator, open_server_run(coordinator, folder / "run", None), made.port, print)
        seconds = time.monotonic() - started
    finally:
        watch.stop.set()
        sites_process.kill()
        made.stop()
    database = sum(path.stat().st_size for path in home.glob("superlink.db*")) / 1e6
    return {**watch.peak, "database": database, "seconds": seconds, "model": size}


def test_the_driver_s_memory_does_not_grow_with_the_sites(tmp_path):
    found = {}
    for num in (FEW, MANY):
        (tmp_path / str(num)).mkdir()
        found[num] = run_with(tmp_path / str(num), num)
        print(f"\n{num} sites:", ", ".join(f"{name} {value:.0f}" for name, value in found[num].items()))
    assert found[FEW]["serverapp"] > 0
    assert found[MANY]["serverapp"] <= MOST_GROWTH * found[FEW]["serverapp"]
