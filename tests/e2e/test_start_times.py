"""How soon work begins: a courier from its process' start to its first call, a warm agent from the order.

`make load`, on a quiet machine.
"""

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from client.agent.desk import Desk
from client.agent.gate import Gate
from client.agent.order_book import OrderBook
from client.approval import Approvals
from common.federation.messages import TrainOrder
from common.federation.packing import order_to_packet
from common.federation.sealing import sealed
from common.federation.stage import Stage
from common.seal import SealKey
from server.state import initial_state
from tests.e2e.hosts import Deployment
from tests.e2e.relays import socket_relay
from tests.small_federation import make_site, small_study, write_volumes

pytestmark = pytest.mark.load

COURIER_S, AGENT_S = 2.5, 0.5
TIMES = 5
PORT = 19094  # of north's SuperNode, which its couriers name


def couriers():
    """Return the ages of north's couriers that run now, in seconds."""
    ticks = os.sysconf("SC_CLK_TCK")
    now = float(Path("/proc/uptime").read_text().split()[0])
    ages = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"flwr-clientapp" in line and str(PORT).encode() in line:
            ages.append(now - int(fields[19]) / ticks)
    return ages


def test_a_courier_makes_its_first_call_soon(tmp_path):
    training = {"rounds": 3, "local_steps": 1, "batch_size": 2}
    study = small_study(
        ("north", "south"),
        codec__model__discriminator=None,
        codec__training=training,
        diffusion__training=training,
    )
    made = Deployment(tmp_path, study.model_dump(mode="json", exclude_none=True))
    ages = []
    try:
        for seed, site in enumerate(made.sites):
            write_volumes(tmp_path / "data" / site, 6, seed)
        made.provision()
        config = (tmp_path / "north" / "site.yaml").read_text()
        (tmp_path / "north" / "courier.yaml").write_text(config.replace("run/agent.sock", "run/relay.sock"))
        made.start_server()
        for site in made.sites:
            made.start_agent(site)
        socket = tmp_path / "north" / "run" / "agent.sock"
        made.wait_for(socket.exists, 60, "the agent's socket")
        relay = socket_relay(socket.with_name("relay.sock"), socket, tmp_path / "bytes")
        relay.accept = lambda raw: (ages.extend(couriers()), raw)[1]
        threading.Thread(target=relay.serve, daemon=True).start()
        made.start("north", "north-connection", "site", "connect", "north/courier.yaml", "--port", PORT)
        made.start_connection("south")
        made.run_study()
        made.finished()
    finally:
        made.stop()
    print(f"\ncourier: {', '.join(f'{age:.2f}' for age in ages)} s; median {statistics.median(ages):.2f} s")
    assert len(ages) >= TIMES
    assert statistics.median(ages) < COURIER_S


def test_a_warm_agent_begins_to_train_soon(tmp_path):
    study = small_study(("a", "b"), codec__model__channels=64, codec__model__discriminator=None,
                        codec__training={"rounds": 9, "local_steps": 3, "batch_size": 2})  # fmt: skip
    coordinator, key = SealKey.generate(), SealKey.generate()
    approvals = Approvals(tmp_path / "approvals", key.public)
    approvals.add(study, coordinator.public, 1, key)
    site = make_site("a", write_volumes(tmp_path / "data", 6, 1), tmp_path / "site", study)
    steps = []
    site.on_step = lambda *_: steps.append(time.monotonic())
    desk = Desk("a", Gate("a", approvals), OrderBook(tmp_path / "orders"), key, lambda _: site)
    waited = []
    for round_index in range(1, TIMES + 2):
        order = TrainOrder(study.digest, "a", Stage.CODEC, round_index, initial_state(study).codec, run="run")
        packet = sealed(order_to_packet(order, 60.0), coordinator)
        steps.clear()
        started = time.monotonic()
        desk.answer(packet)
        first, step = steps[0] - started, steps[2] - steps[1]
        waited.append(first - step)
    print(f"\nagent: {', '.join(f'{seconds:.2f}' for seconds in waited)} s")
    assert statistics.median(waited[1:]) < AGENT_S  # the first one warms it
