"""The site's agent: what it does, what it refuses, and what it says when it is asked again."""

import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from client.agent.desk import Desk
from client.agent.gate import LONGEST_DEADLINE_S, Gate
from client.agent.order_book import OrderBook
from client.agent.service import AgentService
from client.agent_link import AgentLink
from client.approval import Approvals
from common.errors import ArtifactError, ErrorCode, RunError, SealError, VersionError, WireError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    OrderHeader,
    ProgressHeader,
    Question,
    ReportHeader,
)
from common.federation.messages import TrainOrder, TrainReport
from common.federation.packet import Packet
from common.federation.packing import order_to_packet, report_from_packet
from common.federation.sealing import sealed, verified_header
from common.federation.stage import Stage
from common.seal import SealKey
from server.state import initial_state
from tests.small_federation import make_site, small_study, write_volumes

STUDY = small_study(("a", "b"), codec__model__discriminator=None)
COORDINATOR, SITE, STRANGER = SealKey.generate(), SealKey.generate(), SealKey.generate()


def order(**changes) -> TrainOrder:
    base = TrainOrder(STUDY.digest, "a", Stage.CODEC, 1, initial_state(STUDY).codec, run="run")
    return dataclasses.replace(base, **changes)


def packet(key=COORDINATOR, deadline_s=60.0, header=None, **changes) -> Packet:
    made = order_to_packet(order(**changes), deadline_s)
    if header is not None:
        made = Packet.of(made.read_as(OrderHeader).model_copy(update=header), made.sections)
    return sealed(made, key)


def order_id_of(made: Packet) -> str:
    return made.read_as(OrderHeader).order_id


class SlowSite:
    """A site that makes as many steps as it is let to, and counts how often it was asked."""

    def __init__(self, steps=1):
        self.steps = steps
        self.calls = 0
        self.go_on = threading.Event()
        self.on_step = lambda *_: None

    def execute(self, asked, on_step):
        self.calls += 1
        for step in range(1, self.steps + 1):
            on_step(asked.stage.value, asked.round_index, step, self.steps, None)
            self.go_on.wait(10)
        return TrainReport(
            asked.study_digest, "a", asked.stage, asked.round_index, dict(asked.parameters), self.steps, 0.5
        )


@dataclasses.dataclass
class Agent:
    folder: Path
    site: object
    runs: int = 1

    def __post_init__(self):
        self.approvals = Approvals(self.folder / "approvals", SITE.public)
        self.approvals.add(STUDY, COORDINATOR.public, self.runs, SITE)
        self.opened = 0
        self.start()

    def start(self):
        self.desk = Desk("a", Gate("a", self.approvals), OrderBook(self.folder / "orders"), SITE, self.open)

    def open(self, study):
        assert study == STUDY
        self.opened += 1
        return self.site

    def say(self, made, wait_s=10.0):
        """Return the header of the answer, whose seal and sections are right."""
        answer = self.desk.answer(made, wait_s)
        header = verified_header(answer.header, answer.seal, SITE.public)
        assert answer.read() == header
        return header


@pytest.fixture
def agent(tmp_path):
    made = Agent(tmp_path, SlowSite())
    made.site.go_on.set()
    return made


def refusal(code, order_id=""):
    return FailureHeader(order_id=order_id, site="a", code=code)


def test_an_order_is_done_and_the_same_order_gets_the_same_bytes_without_training(agent):
    first, again = agent.desk.answer(packet()), agent.desk.answer(packet(ledger_head="e" * 64))
    assert first == again
    assert agent.site.calls == 1
    assert first.read_as(ReportHeader).order_id == order_id_of(packet())
    agent.start()  # another process, later
    assert agent.desk.answer(Packet.of(FollowUp(order_id=order_id_of(packet())))) == first
    assert agent.site.calls == 1


def test_the_agent_s_log_says_what_it_does(agent, caplog):
    caplog.set_level("INFO", logger="fedvox")
    agent.say(packet())
    said = [record.message for record in caplog.records]
    order = "study small, codec round 1, attempt 1: "
    assert said[0] == order + "begun"
    assert re.fullmatch(order + r"done in \d+\.\d s, 0\.\d MB to send", said[1])
    agent.say(packet())
    assert len(caplog.records) == 2  # the stored answer is no new work


def test_another_attempt_of_a_round_is_another_order(agent):
    agent.say(packet())
    assert agent.say(packet(attempt=2)).order_id == order_id_of(packet(attempt=2))
    assert agent.site.calls == 2


BEYOND = STUDY.codec.training.rounds + 1
OTHER_STUDY = small_study(("a", "b"), seed=9)
SMALLER = dict(list(initial_state(STUDY).codec.items())[1:])


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (packet(key=STRANGER), ErrorCode.SEAL),
        (packet(key=SITE), ErrorCode.SEAL),
        (dataclasses.replace(packet(), seal=b""), ErrorCode.SEAL),
        (dataclasses.replace(packet(), header=packet(attempt=2).header), ErrorCode.SEAL),
        (packet(study_digest=OTHER_STUDY.digest), ErrorCode.UNAPPROVED),
        (packet(study_digest="0" * 64), ErrorCode.UNAPPROVED),
        (packet(round_index=BEYOND), ErrorCode.UNAPPROVED),
        (packet(site="b"), ErrorCode.CONFIG),
        (packet(run=""), ErrorCode.CONFIG),
        (packet(deadline_s=LONGEST_DEADLINE_S + 1), ErrorCode.CONFIG),
        (packet(parameters=SMALLER), ErrorCode.CONFIG),
        (packet(frozen={"codec.x": torch.zeros(10**6)}), ErrorCode.CONFIG),
        (packet(header={"protocol": 2}), ErrorCode.VERSION),
        (Packet.of(ProgressHeader(order_id="0" * 64, site="a", fraction=0)), ErrorCode.CONFIG),
        (Packet(b"nonsense"), ErrorCode.CONFIG),
    ],
)
def test_what_nobody_agreed_to_is_refused_by_its_code_and_no_data_is_opened(agent, made, code):
    assert agent.say(made).code is code
    assert agent.opened == 0
    if made.sections:
        with pytest.raises(Exception, match=r".") as refused:
            agent.desk.refuse_unwanted(made.header, made.seal, {n: len(s) for n, s in made.sections.items()})
        assert getattr(refused.value, "code", None) is code


def test_tensors_that_the_header_does_not_vouch_for_are_not_read(agent):
    made = packet()
    altered = {n: content[:-4] + b"\x00\x00\x80\x3f" for n, content in made.sections.items()}
    assert agent.say(dataclasses.replace(made, sections=altered)).code is ErrorCode.CONFIG
    with pytest.raises(WireError, match="does not vouch"):
        agent.desk.refuse_unwanted(made.header, made.seal, {"parameters": 10**12})
    assert agent.opened == 0


def test_a_round_that_is_over_is_not_done_again(agent):
    for round_index in (1, 2):
        assert isinstance(agent.say(packet(round_index=round_index)), ReportHeader)
    assert agent.say(packet(round_index=1)) == refusal(ErrorCode.REPLAY, order_id_of(packet(round_index=1)))
    assert agent.say(packet(round_index=1, attempt=2)).code is ErrorCode.REPLAY
    assert agent.site.calls == 2
    assert agent.say(Packet.of(FollowUp(order_id=order_id_of(packet())))).code is ErrorCode.UNKNOWN
    folders = [path for path in (agent.folder / "orders").iterdir() if path.is_dir()]
    assert [path.name for path in folders] == [order_id_of(packet(round_index=2))]


def test_another_order_for_the_same_place_is_refused(agent):
    agent.say(packet())
    other = {name: tensor + 1 for name, tensor in initial_state(STUDY).codec.items()}
    assert agent.say(packet(parameters=other)).code is ErrorCode.REPLAY
    assert isinstance(agent.say(packet(parameters=other, attempt=2)), ReportHeader)


def test_missed_rounds_are_accepted_and_logged(agent, caplog):
    agent.say(packet(round_index=2))
    assert "missed rounds 1 to 1 of codec" in caplog.text


def test_a_study_is_begun_as_often_as_was_approved(tmp_path):
    agent = Agent(tmp_path, SlowSite(), runs=2)
    agent.site.go_on.set()
    for run in ("one", "two", "one"):
        assert isinstance(agent.say(packet(run=run)), ReportHeader)
    assert agent.say(packet(run="three")).code is ErrorCode.UNAPPROVED
    assert not list((tmp_path / "orders").glob("run-three*"))


def test_an_approval_that_the_site_did_not_sign_counts_for_nothing(tmp_path):
    agent = Agent(tmp_path, SlowSite())
    Approvals(tmp_path / "approvals", STRANGER.public).add(STUDY, STRANGER.public, 1, STRANGER)
    assert agent.say(packet(key=STRANGER)).code is ErrorCode.SEAL
    with pytest.raises(SealError):
        agent.approvals.all()
    approved = agent.approvals.add(STUDY, COORDINATOR.public, 1, SITE)
    path = tmp_path / "approvals" / f"{STUDY.digest}.json"
    assert agent.approvals.all() == [approved]
    path.rename(path.with_name(f"{OTHER_STUDY.digest}.json"))
    assert agent.say(packet(study_digest=OTHER_STUDY.digest)).code is ErrorCode.SEAL


def test_who_waits_is_told_how_far_it_is_and_another_order_is_sent_away(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=4))
    told = agent.say(packet(), wait_s=0.2)
    assert told == ProgressHeader(order_id=order_id_of(packet()), site="a", fraction=0.25)
    assert agent.say(packet(attempt=2)).code is ErrorCode.BUSY
    assert agent.say(Packet.of(FollowUp(order_id=order_id_of(packet(attempt=2))))).code is ErrorCode.BUSY
    assert agent.say(packet(), wait_s=0.1).fraction == 0.25  # sent again: it goes on
    agent.site.go_on.set()
    assert isinstance(agent.say(Packet.of(FollowUp(order_id=order_id_of(packet())))), ReportHeader)
    assert agent.site.calls == 1


def test_an_order_can_be_called_off_by_its_coordinator_and_by_nobody_else(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=50))
    agent.say(packet(), wait_s=0.1)
    cancellation = Packet.of(Cancellation(order_id=order_id_of(packet())))
    assert agent.say(sealed(cancellation, STRANGER)).code is ErrorCode.SEAL
    assert agent.say(cancellation).code is ErrorCode.SEAL
    threading.Timer(0.2, agent.site.go_on.set).start()  # the step at hand ends
    assert agent.say(sealed(cancellation, COORDINATOR)).code is ErrorCode.CANCELLED
    assert agent.say(sealed(cancellation, COORDINATOR)).code is ErrorCode.UNKNOWN


def test_the_site_s_own_people_can_call_off_what_is_being_done(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=10**6))
    assert not agent.desk.cancel()
    agent.say(packet(), wait_s=0.1)
    assert agent.desk.cancel()
    agent.site.go_on.set()
    follow_up = Packet.of(FollowUp(order_id=order_id_of(packet())))
    assert agent.say(follow_up) == refusal(ErrorCode.CANCELLED, order_id_of(packet()))
    agent.site.steps = 1  # the order may come again
    assert isinstance(agent.say(packet()), ReportHeader)


def test_an_order_that_takes_too_long_stops_by_itself(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=10**6))
    agent.say(packet(deadline_s=0.2), wait_s=0.3)
    agent.site.go_on.set()
    assert agent.say(Packet.of(FollowUp(order_id=order_id_of(packet())))).code is ErrorCode.DEADLINE


def test_an_agent_that_died_begins_the_order_again_when_it_is_asked_after(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=2))
    agent.say(packet(), wait_s=0.1)
    agent.site = SlowSite()
    agent.site.go_on.set()
    agent.start()  # the thread of the first one is somebody else's by now
    follow_up = Packet.of(FollowUp(order_id=order_id_of(packet())))
    assert isinstance(agent.say(follow_up), ReportHeader)
    assert agent.site.calls == 1


def test_an_error_that_nobody_thought_of_leaves_as_a_code(tmp_path):
    agent = Agent(tmp_path, site=None)
    agent.open = lambda study: 1 / 0
    agent.start()
    assert agent.say(packet()) == refusal(ErrorCode.INTERNAL, order_id_of(packet()))


@pytest.fixture
def short_folder():
    """A folder whose path a socket's name can hold."""
    folder = tempfile.mkdtemp(dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder)


def test_a_full_disk_is_told_before_an_order_is_received(agent, monkeypatch):
    made = packet()
    sizes = {name: len(content) for name, content in made.sections.items()}
    agent.desk.refuse_unwanted(made.header, made.seal, sizes)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100 << 20))
    with pytest.raises(ArtifactError, match="an order may fill") as caught:
        agent.desk.refuse_unwanted(made.header, made.seal, sizes)
    assert caught.value.code is ErrorCode.DISK


def test_orders_of_another_release_are_named_and_left(agent):
    agent.desk.answer(packet())
    (record,) = (agent.folder / "orders").glob("run-*.json")
    before = record.read_text()
    record.write_text(before.replace('"version": 1', '"version": 2'))
    assert agent.say(packet(round_index=2)).code is ErrorCode.VERSION
    record.write_text(before)
    assert isinstance(agent.say(packet(round_index=2)), ReportHeader)


def test_a_draining_agent_finishes_its_order_and_takes_no_other(tmp_path):
    agent = Agent(tmp_path, SlowSite(steps=3))
    assert isinstance(agent.say(packet(), wait_s=0.1), ProgressHeader)
    ended = threading.Thread(target=agent.desk.drain)
    ended.start()
    ended.join(0.1)
    assert ended.is_alive()
    agent.site.go_on.set()
    ended.join(10)
    assert not ended.is_alive()
    assert isinstance(agent.say(packet()), ReportHeader)  # what is done is still answered
    assert agent.say(packet(round_index=2)).code is ErrorCode.BUSY
    assert agent.site.calls == 1


def test_a_real_site_answers_over_its_socket_as_it_does_in_process(tmp_path, short_folder):
    data = write_volumes(tmp_path / "data", 3, 1)
    direct = make_site("a", data, tmp_path / "direct", STUDY).execute(order())
    site = make_site("a", data, tmp_path / "site", STUDY)
    agent = Agent(tmp_path / "agent", site)
    socket = short_folder / "agent" / "agent.sock"
    service = AgentService(agent.desk, socket, None, tmp_path / "spool")
    link = AgentLink(socket)
    with pytest.raises(RunError, match="no agent answers"):
        link.answer(packet())
    service.start()
    try:
        assert socket.stat().st_mode & 0o777 == 0o660
        assert socket.parent.stat().st_mode & 0o777 == 0o750
        link = AgentLink(socket)
        asked = Question(nonce="1" * 64)
        said = link.answer(Packet.of(asked))
        introduction = verified_header(said.header, said.seal, SITE.public)
        assert (introduction.site, introduction.nonce) == ("a", asked.nonce)
        answer = link.answer(packet())
        verified_header(answer.header, answer.seal, SITE.public)
        report = report_from_packet(answer)
        assert report.parameters.keys() == direct.parameters.keys()
        assert all(torch.equal(report.parameters[n], direct.parameters[n]) for n in direct.parameters)
        forged = packet(key=STRANGER)
        assert link.answer(forged).read() == refusal(ErrorCode.SEAL, order_id_of(forged))
        assert link.answer(Packet.of(FollowUp(order_id=order_id_of(packet())))) == answer
        assert not list((tmp_path / "spool").iterdir())
    finally:
        service.stop()
    assert not socket.exists()


def test_an_agent_of_another_release_is_refused(tmp_path, short_folder, monkeypatch):
    agent = Agent(tmp_path, SlowSite())
    service = AgentService(agent.desk, short_folder / "agent.sock", None, tmp_path / "spool")
    monkeypatch.setattr("client.agent.service.release", lambda: "9.9")
    service.start()
    try:
        with pytest.raises(VersionError, match=r"agent is fedvox 9\.9"):
            AgentLink(short_folder / "agent.sock").answer(packet())
    finally:
        service.stop()


def test_the_courier_loads_no_torch():
    code = (
        "import sys, client.app, client.agent_link; "
        "print([m for m in ('torch', 'monai', 'opacus', 'nibabel', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
