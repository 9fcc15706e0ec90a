"""What a round costs beside training, in three arms that take turns on one server and the same three nodes.

    E    an empty Flower app
    T    the same app, whose client imports torch, as a client that trains in Flower's own process must
    A    fedvox: sealed orders, courier, agent

Equal numbers of bytes travel in all. Overhead of A is the whole round less the time in which agents trained;
the longest training alone is counted, so what is said of A is never too little. `make load`.
"""

import json
import random
import statistics
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from common.federation.stage import Stage
from common.order_tensors import OrderTensors
from common.study import load_study
from deploy import processes
from deploy.processes import SERVER, flower_home, program
from server.coordinator import Coordinator
from tests.e2e.hosts import ENVIRONMENT, Deployment
from tests.small_federation import small_study, write_volumes

pytestmark = pytest.mark.load

SITES = ("north", "south", "west")
BLOCKS, ROUNDS = 4, 3
WORST_RATIO, WORST_SHARE = 1.2, 0.5
PLAIN = Path(__file__).parent / "plain_app"
PYPROJECT = """\
[project]
name = "plain"
version = "0.0.1"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "tests"
fab-include = ["plain/*.py"]
[tool.flwr.app.components]
serverapp = "plain.server:app"
clientapp = "plain.client:app"
[tool.flwr.app.config]
sites = 3
rounds = 1
bytes = 1
out = ""
"""


def write_plain_app(folder, imports):
    """Write the plain app; return its hash as Flower packs it."""
    (folder / "plain").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    for path in PLAIN.glob("*.py"):
        (folder / "plain" / path.name).write_text(path.read_text().replace("# IMPORTS", imports))
    return sha256(build_fab_from_disk(folder)).hexdigest()


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """Return seconds of overhead of each round, by arm."""
    folder = tmp_path_factory.mktemp("overhead")
    study = small_study(
        SITES,
        codec__model__channels=64,
        codec__model__num_res_blocks=1,
        codec__model__discriminator=None,
        codec__training={"rounds": ROUNDS, "local_steps": 1, "batch_size": 2},
        diffusion__training={"rounds": 1, "local_steps": 1, "batch_size": 2},
    )
    for seed, site in enumerate(SITES):
        write_volumes(folder / "data" / site, 6, seed)
    hashes = [write_plain_app(folder / "empty", ""), write_plain_app(folder / "torch", "import torch")]
    made = Deployment(folder, study.model_dump(mode="json", exclude_none=True))
    made.provision()
    made.start_server()
    made.wait_for_admission()
    for index, site in enumerate(SITES):
        made.start_agent(site)
        socket = folder / site / "run" / "agent.sock"
        node = processes.supernode(folder / site, made.address, socket, 19094 + index)
        words = list(node.words)
        words[3] = ",".join([words[3], *hashes])
        made.start_program(site, f"{site}-node", *words, environment=ENVIRONMENT | node.environment)
    size = OrderTensors.of(load_study(folder / "study.yaml"), Stage.CODEC).sizes["parameters"]
    try:
        yield measured(made, size)
    finally:
        made.stop()


def measured(made, size):
    found = {"E": [], "T": [], "A": []}
    for block in range(BLOCKS):
        for arm in random.Random(block).sample(sorted(found), 3):
            found[arm] += fedvox_rounds(made, block) if arm == "A" else plain_rounds(made, arm, size)
    return found


def fedvox_rounds(made, block):
    for site in SITES:
        made.fedvox(site, "site", "approve", f"{site}/site.yaml", "--yes", "--runs", BLOCKS)
    name = f"run{block}"
    made.start("coordinator", "study", "study", "run", "study.yaml", "--server", "--port", made.port,
               "--name", name, "--json")  # fmt: skip
    made.finished(300)
    lines = (made.folder / "runs" / name / "events.jsonl").read_text().splitlines()
    rounds = [e for e in map(json.loads, lines) if e["event"] == "round_finished" and e["stage"] == "codec"]
    return [e["seconds"] - max(site["seconds"] for site in e["sites"].values()) for e in rounds]


def plain_rounds(made, arm, size):
    home = Coordinator(made.folder / "coordinator").folder
    out = made.folder / f"{arm}.jsonl"
    before = len(out.read_text().splitlines()) if out.is_file() else 0
    app = made.folder / {"E": "empty", "T": "torch"}[arm]
    settings = f'rounds={ROUNDS} bytes={size} out="{out}" sites={len(SITES)}'
    subprocess.run(
        [program("flwr"), "run", app, SERVER, "--run-config", settings, "--format", "json"],
        env=ENVIRONMENT | {"FLWR_HOME": str(flower_home(home, made.port))}, check=True, capture_output=True,
    )  # fmt: skip
    made.wait_for(lambda: out.is_file() and len(out.read_text().splitlines()) > before, 300, f"arm {arm}")
    return json.loads(out.read_text().splitlines()[-1])


def interval(values, draws=2000):
    """Return the bootstrap's 95 % interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[draws // 40], medians[-draws // 40]


def test_fedvox_costs_little_more_than_an_empty_app_and_much_less_than_torch_in_every_message(arms):
    medians = {}
    for arm, values in sorted(arms.items()):
        assert len(values) >= 10
        medians[arm] = statistics.median(values)
        low, high = interval(values)
        print(f"\n{arm}: median {medians[arm]:.2f} s [{low:.2f}, {high:.2f}] of {len(values)} rounds", end="")
    print()
    assert medians["A"] <= WORST_RATIO * medians["E"]
    assert medians["A"] - medians["E"] <= WORST_SHARE * (medians["T"] - medians["E"])
