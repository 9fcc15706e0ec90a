"""Nothing identifying crosses: patients are marked, and what leaves their sites is searched for the marks.

The marks are in folder names, file names, patient identifiers, NIfTI headers, and in the texts of errors that
broken files raise. Searched are the decrypted traffic (a relay that holds the coordinator's certificate), the
agent's socket, and every file of the coordinator. `make e2e`.
"""

import contextlib
import json
import sqlite3
import sys

import nibabel as nib
import numpy as np
import pytest
import yaml

from client.installation import AUTHORITY_FILE, COORDINATOR_FILE
from tests.e2e.canaries import leaks_in
from tests.e2e.hosts import call, hospitals, needs_hosts
from tests.small_federation import small_study

pytestmark = needs_hosts

SITES = ("north", "south", "west")
FOLDER, FILE, PATIENT, HEADER, BROKEN = (
    "zebrafinch-ward",
    "nightingale-exam",
    "goldcrest-patient",
    "wagtail-scanner",
    "firecrest-broken",
)
MARKS = (FOLDER, FILE, PATIENT, HEADER, BROKEN)
TRAINING = {"rounds": 1, "local_steps": 2, "batch_size": 2}
RELAYED = 444


def write_marked_volumes(folder, seed):
    """Write six exams and a patient table that carry every mark."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = ["file,patient"]
    for index in range(6):
        image = nib.Nifti1Image(rng.normal(size=(8, 8, 8)).astype(np.float32), np.eye(4))
        image.header["descrip"] = HEADER.encode()
        name = f"{FILE}-{index}.nii.gz"
        nib.save(image, folder / name)
        rows.append(f"{name},{PATIENT}-{index}")
    (folder.parent / f"{FOLDER}.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A study that has ended, with what was recorded on its way."""
    folder = tmp_path_factory.mktemp("canaries")
    study = small_study(
        SITES,
        codec__training=TRAINING,
        diffusion__training=TRAINING,
        codec__model__discriminator=None,
        federation={"sites": list(SITES), "min_sites": 2, "round_deadline_s": 240, "round_attempts": 1},
    )
    with hospitals(folder, study.model_dump(mode="json", exclude_none=True), "fvc") as made:
        for seed, site in enumerate(("north", "south")):
            mark(folder / site, seed)
        (folder / "south" / FOLDER / f"{BROKEN}.nii.gz").write_bytes(b"no volume")
        with (folder / "south" / f"{FOLDER}.csv").open("a") as table:
            table.write(f"{BROKEN}.nii.gz,{PATIENT}-9\n")
        made.start_server()
        address, home = made.hosts.address("coordinator"), folder / "coordinator"
        relay(made, "coordinator", "tls", address, RELAYED, 443, home, folder / "tls-record")
        for site in SITES:
            made.start_agent(site)
        for site, port in (("north", 19094), ("south", 19095)):
            run, record = folder / site / "run", folder / f"{site}-socket-record"
            made.wait_for((run / "agent.sock").exists, 60, "the agent's socket")
            relay(made, site, f"socket-{site}", run / "relay.sock", run / "agent.sock", record)
            made.wait_for((run / "relay.sock").exists, 60, "the relay's socket")
            made.start(site, f"{site}-connection", "site", "connect", f"{site}/courier.yaml", "--port", port)
        made.start_connection("west")
        made.run_study()
        made.finished(400)
        yield made


def mark(site, seed):
    """Give a site marked patients, a way through the relay, and a socket behind one."""
    write_marked_volumes(site / FOLDER, seed)
    config = yaml.safe_load((site / "site.yaml").read_text())
    config |= {"data": FOLDER, "patients": f"{FOLDER}.csv"}
    (site / "site.yaml").write_text(yaml.safe_dump(config))
    (site / "courier.yaml").write_text(yaml.safe_dump(config | {"agent": {"socket": "run/relay.sock"}}))
    known = json.loads((site / COORDINATOR_FILE).read_text())
    known["address"] = known["address"].replace(":443", f":{RELAYED}")
    (site / COORDINATOR_FILE).write_text(json.dumps(known))


def relay(made, host, name, *words):
    kind = name.partition("-")[0]
    made.start_program(host, f"relay-{name}", sys.executable, "-m", "tests.e2e.relays", kind, *words)


LEAK = """
import base64, gzip, http.client, socket, ssl, sys
word, address, port, authority, agent = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
connection = http.client.HTTPSConnection(address, int(port), timeout=30, context=context)
connection.request("POST", "/v1/fleet/push-object", gzip.compress(b"object " + word.encode()))
connection.getresponse().read()
near = socket.socket(socket.AF_UNIX)
near.connect(agent)
near.sendall(base64.b64encode(b"order " + word.encode()))
near.shutdown(socket.SHUT_WR)
near.settimeout(30)
while near.recv(1000):
    pass
"""


def test_a_leak_that_is_planted_on_each_way_is_found(ended, tmp_path):
    """Through the relays of traffic and socket, and in a copy of the server's database."""
    word, south = "bluethroat-planted", ended.folder / "south"
    words = (sys.executable, "-c", LEAK, word, ended.hosts.address("coordinator"), RELAYED)
    call(
        *words, south / AUTHORITY_FILE, south / "run" / "relay.sock", namespace=ended.hosts.namespace("south")
    )
    for name in ("tls", "south-socket"):
        assert list(leaks_in(recorded(ended, name), [word]).values()) == [{word}]
    (original,) = (ended.folder / "coordinator").rglob("superlink.db")
    database = tmp_path / original.name
    closing = contextlib.closing  # what is written lies in the file once it is closed
    with closing(sqlite3.connect(original)) as source, closing(sqlite3.connect(database)) as copy:
        source.backup(copy)
        copy.execute("CREATE TABLE planted (object BLOB)")
        copy.execute("INSERT INTO planted VALUES (?)", (word.encode("utf-16-le"),))
        copy.commit()
    assert leaks_in([database], [word]) == {database: {word}}


def test_the_search_finds_what_is_there_to_find(ended):
    """The site's own log holds the text of the error, and its folder the names."""
    agent_log = ended.running["south-agent"].log
    assert BROKEN in leaks_in([agent_log], MARKS)[agent_log]
    exam = next((ended.folder / "north" / FOLDER).glob("*.nii.gz"))
    assert leaks_in([exam], MARKS) == {exam: {HEADER}}


def test_the_study_went_on_and_the_broken_site_said_a_code(ended):
    events = [json.loads(line) for line in ended.events().splitlines()]
    failed = {(e["site"], e["code"]) for e in events if e["event"] == "site_failed"}
    assert failed == {("south", "E_DATA")}
    assert events[-1]["event"] == "run_finished"


def test_no_mark_is_in_what_travelled(ended):
    for name in ("tls", "north-socket", "south-socket"):
        records = recorded(ended, name)
        assert sum(record.stat().st_size for record in records) > 10_000  # orders and reports came this way
        assert leaks_in(records, MARKS) == {}
    assert any(b"/v1/fleet/" in record.read_bytes() for record in recorded(ended, "tls"))
    assert leaks_in(recorded(ended, "south-socket"), ["E_DATA"])  # how the broken volume was reported


def recorded(ended, name):
    """Return what a relay has written down."""
    return sorted((ended.folder / f"{name}-record").iterdir())


def test_no_mark_is_anywhere_at_the_coordinator(ended):
    places = [ended.folder / "coordinator", ended.folder / "runs"]
    logs = [ended.running[name].log for name in ("server", "study", "relay-tls")]
    files = [path for place in places for path in place.rglob("*")] + logs
    assert any(path.name.startswith("superlink.db") for path in files)
    assert leaks_in(files, MARKS) == {}


def test_no_mark_is_in_a_courier_s_log(ended):
    assert leaks_in([ended.running[f"{site}-connection"].log for site in SITES], MARKS) == {}
