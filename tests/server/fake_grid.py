"""What tests of Flower's messages share: nodes that answer as a test says, keys, a transport between both."""

import dataclasses
import tempfile
from pathlib import Path

import torch
from flwr.app import Message, RecordDict

from common.federation.headers import Introduction
from common.federation.messages import TrainOrder, TrainReport
from common.federation.packet import Packet
from common.federation.packing import report_to_packet
from common.federation.sealing import sealed
from common.federation.stage import Stage
from common.federation.wire import packet_from_records, packet_to_records
from common.seal import SealKey
from server import find_sites as finding
from server import flower_transport
from server.find_sites import SiteFinder
from server.flower_transport import FlowerTransport
from server.round_board import RoundBoard
from server.seals import StudySeals
from server.spool import Spool

NODES = {"a": 11, "b": 12}
SERVER_NODE = 1
COORDINATOR, STRANGER = SealKey.generate(), SealKey.generate()
KEYS = {site: SealKey.generate() for site in NODES}
PUBLIC = {site: key.public for site, key in KEYS.items()}
SEALS = StudySeals(COORDINATOR, lambda: PUBLIC)


def hurry(monkeypatch):
    """Let nobody wait for seconds."""
    for module in (flower_transport, finding):
        monkeypatch.setattr(module, "POLL_S", 0.001)
        monkeypatch.setattr(module, "ASK_AGAIN_S", 0.01)


@dataclasses.dataclass
class Metadata:
    src_node_id: int
    reply_to_message_id: str


@dataclasses.dataclass
class Reply:
    content: RecordDict
    metadata: Metadata
    error: bool = False

    def has_error(self) -> bool:
        return self.error


class FakeGrid:
    """Nodes whose answer to a packet a function gives: a packet, records, None for an error, or "later"."""

    def __init__(self, answer, nodes=None):
        self.nodes = nodes or NODES
        self.answer = answer
        self.online: set[int] | None = None
        self.waiting: dict[str, Message] = {}
        self.sent: list[Packet] = []

    def get_node_ids(self):
        return [node for node in self.nodes.values() if self.online is None or node in self.online]

    def push_messages(self, messages):
        names = [f"m{len(self.sent) + index}" for index in range(len(messages))]
        self.waiting |= dict(zip(names, messages, strict=True))
        self.sent += [packet_from_records(message.content) for message in messages]
        return names

    def pull_messages(self, names):
        replies = []
        for name in names:
            node = self.waiting[name].metadata.dst_node_id
            site = next(site for site, own in self.nodes.items() if own == node)
            answer = self.answer(site, packet_from_records(self.waiting[name].content))
            if answer == "later":
                continue
            del self.waiting[name]
            records = packet_to_records(answer) if isinstance(answer, Packet) else answer
            source = SERVER_NODE if answer is None else node  # Flower's own errors are from its server
            replies.append(Reply(records or RecordDict(), Metadata(source, name), error=answer is None))
        return replies


def order(site):
    return TrainOrder("d" * 64, site, Stage.CODEC, 1, {"w": torch.zeros(2)}, run="run")


def report(site):
    return TrainReport("d" * 64, site, Stage.CODEC, 1, {"w": torch.ones(2)}, 1, 0.5)


def packed(site, asked, made=None, key=None):
    header = asked.read()
    order_id = header.order_id
    return sealed(report_to_packet(made or report(site), order_id), key or KEYS[site])


def transport_over(grid, folder, seals=SEALS, connected=None):
    finder = SiteFinder(grid, ("a", "b"), seals)
    finder.node_of = dict(NODES if connected is None else connected)
    return FlowerTransport(grid, finder, seals, Spool(folder / "spool"), RoundBoard(folder / "round.json"))


def exchange(answer, seals=SEALS, deadline_s=5.0, connected=None, grid=None, gone=None):
    grid = FakeGrid(answer) if grid is None else grid
    with tempfile.TemporaryDirectory() as folder:
        transport = transport_over(grid, Path(folder), seals, connected)
        transport.gone.update(gone or ())
        found = transport.exchange([order("a"), order("b")], deadline_s)
        if gone is not None:
            gone.clear()
            gone.update(transport.gone)
    return found, grid


def find_sites(grid, sites, deadline_s, seals, enough=None):
    finder = SiteFinder(grid, sites, seals)
    finder.wait(enough or len(sites), deadline_s)
    return finder.node_of


def introduced(site, asked, key=None, **changes):
    said = Introduction(nonce=asked.read().nonce, site=site, release="1").model_copy(update=changes)
    return sealed(Packet.of(said), key or KEYS.get(site, STRANGER))
