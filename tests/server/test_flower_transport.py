"""Replies over Flower's grid: each node speaks for its own site and for no other."""

import dataclasses

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.errors import ErrorCode, FederationError
from common.federation.messages import FailureReport, TrainOrder, TrainReport
from common.federation.packing import report_to_packet
from common.federation.stage import Stage
from common.federation.wire import packet_to_records
from server.flower_transport import FlowerTransport

pytestmark = pytest.mark.usefixtures("flower_process")

NODES = {"a": 11, "b": 12}
UNABLE = packet_to_records(report_to_packet(FailureReport("unknown", ErrorCode.CONFIG), ""))


@dataclasses.dataclass
class Metadata:
    src_node_id: int
    reply_to_message_id: str


@dataclasses.dataclass
class Reply:
    content: RecordDict
    metadata: Metadata

    def has_error(self) -> bool:
        return False


class FakeGrid:
    """Nodes that say their names, and answer orders with what ``answers`` holds for each."""

    def __init__(self, nodes=None, answers=None):
        self.nodes = nodes or NODES
        self.answers = answers or {}
        self.sent: dict[str, Message] = {}

    def get_node_ids(self):
        return list(self.nodes.values())

    def push_messages(self, messages):
        names = [f"m{len(self.sent) + index}" for index in range(len(messages))]
        self.sent |= dict(zip(names, messages, strict=True))
        return names

    def pull_messages(self, names):
        return [self.reply(name, self.sent[name]) for name in names]

    def reply(self, name, message):
        node = message.metadata.dst_node_id
        site = next(site for site, own in self.nodes.items() if own == node)
        if message.metadata.message_type.startswith("query"):
            content = self.answers.get("hello") or RecordDict({"site": ConfigRecord({"name": site})})
        else:
            content = packet_to_records(report_to_packet(self.answers[site], "f" * 64))
        return Reply(content, Metadata(node, name))


def order(site):
    return TrainOrder("d" * 64, site, Stage.CODEC, 1, {"w": torch.zeros(2)})


def report(site):
    return TrainReport("d" * 64, site, Stage.CODEC, 1, {"w": torch.ones(2)}, 1, 0.5)


def exchange(answers):
    transport = FlowerTransport(FakeGrid(answers=answers), ("a", "b"), 5.0)
    return transport.exchange([order("a"), order("b")], 5.0)


def test_each_site_s_report_arrives():
    reports = exchange({"a": report("a"), "b": report("b")}).reports
    assert [r.site for r in reports] == ["a", "b"]


def test_a_node_that_speaks_for_another_site_is_not_heard():
    reports = exchange({"a": report("b"), "b": report("b")}).reports
    assert [r.site for r in reports] == ["b"]


@pytest.mark.parametrize("claimed", ["a", "b", "unknown"])
def test_a_failure_counts_for_the_node_that_sent_it(claimed):
    answers = {"a": FailureReport(claimed, ErrorCode.BUDGET), "b": report("b")}
    reports = exchange(answers).reports
    assert reports[0] == FailureReport("a", ErrorCode.BUDGET)
    assert [r.site for r in reports] == ["a", "b"]


def test_a_node_that_cannot_say_its_name_is_counted_and_told_of():
    grid = FakeGrid(answers={"hello": UNABLE})
    with pytest.raises(FederationError, match=r"not connected .*: a, b; 2 nodes answered"):
        FlowerTransport(grid, ("a", "b"), 0.1)


def test_a_node_that_could_not_say_its_name_is_asked_again(monkeypatch):
    monkeypatch.setattr("server.flower_transport.ASK_AGAIN_S", 0.05)
    grid = FakeGrid(answers={"hello": UNABLE})
    real = grid.pull_messages

    def mended_later(names):
        replies = real(names)
        if len(grid.sent) > len(NODES):
            grid.answers.pop("hello", None)
        return replies

    monkeypatch.setattr(grid, "pull_messages", mended_later)
    assert FlowerTransport(grid, ("a", "b"), 5.0).node_of == NODES


def test_a_node_that_answers_something_else_to_the_question_for_its_name_is_counted():
    grid = FakeGrid(answers={"hello": RecordDict({"site": ConfigRecord({"no": "name"})})})
    with pytest.raises(FederationError, match="2 nodes answered that they cannot"):
        FlowerTransport(grid, ("a", "b"), 0.1)


def test_a_stranger_neither_takes_part_nor_stops_anybody():
    grid = FakeGrid(nodes={**NODES, "stranger": 13, "z": 14})
    assert FlowerTransport(grid, ("a", "b"), 5.0).node_of == NODES


def test_a_reply_that_is_no_packet_leaves_the_others_intact(monkeypatch):
    grid = FakeGrid(answers={"a": report("a"), "b": report("b")})
    real = grid.reply

    def garbled(name, message):
        reply = real(name, message)
        if reply.metadata.src_node_id == NODES["a"] and "envelope" in reply.content:
            pieces = ArrayRecord(
                {"0": Array(dtype="uint8", shape=(9,), stype="numpy.ndarray", data=b"garbage")}
            )
            reply.content["section.parameters"] = pieces
        return reply

    monkeypatch.setattr(grid, "reply", garbled)
    exchanged = FlowerTransport(grid, ("a", "b"), 5.0).exchange([order("a"), order("b")], 5.0)
    assert [r.site for r in exchanged.reports] == ["b"]


def test_two_nodes_of_one_name_are_refused():
    grid = FakeGrid(answers={"hello": RecordDict({"site": ConfigRecord({"name": "a"})})})
    with pytest.raises(FederationError, match="two nodes call themselves a"):
        FlowerTransport(grid, ("a", "b"), 0.1)
