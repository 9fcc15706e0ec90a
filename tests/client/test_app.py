"""What Flower's node answers when anything at all goes wrong: a code, and no word of the site's."""

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from client import app, simulated_desk
from client.agent_link import AgentLink
from common.errors import ErrorCode
from common.federation.headers import FollowUp, Question
from common.federation.messages import FailureReport, TrainOrder
from common.federation.packet import Packet
from common.federation.packing import order_to_packet, report_from_packet, report_to_packet
from common.federation.stage import Stage
from common.federation.wire import packet_from_records, packet_to_records

pytestmark = pytest.mark.usefixtures("flower_process")

PATIENT = "patient-MUSTERMANN"


def message(content=None) -> Message:
    return Message(content or RecordDict(), dst_node_id=1, message_type="train")


def context(node_config=(), run_config=()) -> Context:
    return Context(
        run_id=1, node_id=1, node_config=dict(node_config), state=RecordDict(), run_config=dict(run_config)
    )


@pytest.fixture
def secret_site(tmp_path, monkeypatch):
    """A simulated node whose site file names a patient and cannot be read."""
    site = tmp_path / "sites" / "a" / "site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text(f"name: {PATIENT}")
    study = tmp_path / PATIENT / "study.yaml"
    monkeypatch.setenv(simulated_desk.SIMULATED_SITES_VARIABLE, str(tmp_path / "sites"))
    monkeypatch.setenv(simulated_desk.STUDY_VARIABLE, str(study))
    return {"partition-id": 0}


def answer_of(reply: Message):
    assert PATIENT not in repr(reply.content) + repr(reply.metadata)
    return report_from_packet(packet_from_records(reply.content))


ORDER = order_to_packet(TrainOrder("d" * 64, "a", Stage.CODEC, 1, {"w": torch.zeros(2)}), 60.0)


def test_a_site_that_cannot_be_opened_answers_with_a_code_and_no_text(secret_site):
    reply = app.train(message(packet_to_records(ORDER)), context(secret_site))
    assert answer_of(reply) == FailureReport("unknown", ErrorCode.CONFIG)


@pytest.mark.parametrize("node_config", [{}, {"partition-id": 1}, {"partition-id": "0"}])
@pytest.mark.parametrize("handler", [app.hello, app.train])
def test_a_node_without_a_site_answers_with_a_code(secret_site, handler, node_config):
    reply = handler(message(packet_to_records(ORDER)), context(node_config))
    assert answer_of(reply) == FailureReport("unknown", ErrorCode.CONFIG)


def test_a_node_of_no_simulation_and_no_agent_answers_with_a_code(monkeypatch):
    monkeypatch.delenv(simulated_desk.SIMULATED_SITES_VARIABLE, raising=False)
    asked = packet_to_records(Packet.of(Question(nonce="0" * 64)))
    reply = app.hello(message(asked), context({"partition-id": 0}))
    assert answer_of(reply) == FailureReport("unknown", ErrorCode.INTERNAL)


@pytest.mark.parametrize("handler", [app.hello, app.train])
def test_an_error_that_nobody_thought_of_answers_with_a_code_and_no_text(monkeypatch, handler):
    def fail(context):
        raise OSError(5, "input/output error", PATIENT)

    monkeypatch.setattr(app, "_desk", fail)
    reply = handler(message(), context())
    assert answer_of(reply) == FailureReport("unknown", ErrorCode.INTERNAL)


@pytest.mark.parametrize(
    "content", [RecordDict(), packet_to_records(report_to_packet(FailureReport("a", ErrorCode.DATA), ""))]
)
def test_a_message_that_is_no_order_answers_with_a_code(secret_site, content):
    reply = app.train(message(content), context(secret_site))
    assert answer_of(reply) == FailureReport("unknown", ErrorCode.CONFIG)


def test_a_simulated_node_says_its_name_without_opening_its_volumes(secret_site):
    asked = Question(nonce="0" * 64)
    reply = app.hello(message(packet_to_records(Packet.of(asked))), context(secret_site))
    said = packet_from_records(reply.content).read()
    assert (said.site, said.nonce) == ("a", asked.nonce)


def test_a_simulated_node_holds_nothing_that_could_be_asked_after(secret_site):
    asked = packet_to_records(Packet.of(FollowUp(order_id="0" * 64)))
    assert answer_of(app.train(message(asked), context(secret_site))).code is ErrorCode.UNKNOWN


def test_a_run_does_not_choose_where_a_node_carries_its_orders(secret_site, monkeypatch):
    asked = {"partition-id": 5, "agent-socket": "coordinator.sock"}
    assert isinstance(app._desk(context(secret_site, asked)), simulated_desk.SimulatedDesk)
    agents = app._desk(context({**secret_site, "agent-socket": "own.sock"}, asked))
    assert isinstance(agents, AgentLink)
