"""Packets over Flower's grid: each node speaks for its own site, and lost messages lose no work."""

import dataclasses
import tempfile
import time
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from common.errors import ErrorCode, FederationError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    Introduction,
    OrderHeader,
    ProgressHeader,
    Question,
)
from common.federation.messages import FailureReport, TrainOrder, TrainReport
from common.federation.packet import Packet, describe
from common.federation.packing import report_to_packet
from common.federation.sealing import sealed, verified_header
from common.federation.stage import Stage
from common.federation.wire import packet_from_records, packet_to_records
from common.seal import SealKey
from server import find_sites as finding
from server import flower_transport
from server.find_sites import SiteFinder
from server.flower_transport import MOST_LOST, MOST_SENT, FlowerTransport
from server.round_board import RoundBoard
from server.seals import NoSeals, StudySeals
from server.spool import Spool

pytestmark = pytest.mark.usefixtures("flower_process")

NODES = {"a": 11, "b": 12}
SERVER_NODE = 1
COORDINATOR, STRANGER = SealKey.generate(), SealKey.generate()
KEYS = {site: SealKey.generate() for site in NODES}
PUBLIC = {site: key.public for site, key in KEYS.items()}
SEALS = StudySeals(COORDINATOR, lambda: PUBLIC)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
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


def exchange(answer, seals=SEALS, deadline_s=5.0, connected=None, grid=None, gone=None):
    grid = FakeGrid(answer) if grid is None else grid
    with tempfile.TemporaryDirectory() as folder:
        board = RoundBoard(Path(folder) / "round.json")
        finder = SiteFinder(grid, ("a", "b"), seals)
        finder.node_of = dict(NODES if connected is None else connected)
        transport = FlowerTransport(grid, finder, seals, Spool(Path(folder) / "spool"), board)
        transport.gone.update(gone or ())
        found = transport.exchange([order("a"), order("b")], deadline_s)
        if gone is not None:
            gone.clear()
            gone.update(transport.gone)
    return found, grid


def test_each_site_s_report_arrives_and_bytes_are_counted():
    found, grid = exchange(packed)
    assert [r.site for r in found.reports] == ["a", "b"]
    assert found.bytes_down == sum(packet.num_bytes for packet in grid.sent)
    assert found.bytes_up > 0


def test_orders_are_sealed_by_the_coordinator():
    _, grid = exchange(packed)
    for packet in grid.sent:
        assert verified_header(packet.header, packet.seal, COORDINATOR.public) == packet.read()


@pytest.mark.parametrize(
    "forged",
    [
        lambda asked: packed("a", asked, key=STRANGER),
        lambda asked: packed("a", asked, key=KEYS["b"]),
        lambda asked: dataclasses.replace(packed("a", asked), seal=b""),
        lambda asked: packed("a", asked, made=report("b")),
        lambda asked: dataclasses.replace(packed("a", asked), sections={"parameters": b"altered"}),
        lambda asked: Packet(b"nonsense"),
        lambda asked: RecordDict(),
        lambda asked: RecordDict(
            {
                **packet_to_records(packed("a", asked)),
                "section.parameters": ArrayRecord(
                    {"0": Array(dtype="uint8", shape=(7,), stype="numpy.ndarray", data=b"garbage")}
                ),
            }
        ),
        lambda asked: None,
    ],
)
def test_what_a_site_did_not_say_is_not_heard_and_stops_nobody_else(forged):
    found, grid = exchange(lambda site, asked: forged(asked) if site == "a" else packed(site, asked))
    assert [r.site for r in found.reports] == ["b"]
    assert len(grid.sent) == MOST_LOST + 1  # it was asked again before it was given up


def test_a_message_that_is_lost_loses_no_work():
    """The order arrives, its answer does not; the site has the report when it is asked after it."""
    lost = {"a"}

    def answer(site, asked):
        if site in lost:
            lost.discard(site)
            return None
        assert site != "a" or isinstance(asked.read(), FollowUp)
        return packed(site, asked)

    found, grid = exchange(answer)
    assert [r.site for r in found.reports] == ["a", "b"]
    assert [type(packet.read()) for packet in grid.sent].count(OrderHeader) == 2


def test_an_order_that_never_arrived_is_sent_whole_again():
    known = set()

    def answer(site, asked):
        header = asked.read()
        if site == "b":
            return packed(site, asked)
        if not known:
            known.add("lost")
            return None
        if isinstance(header, FollowUp) and "order" not in known:
            refusal = FailureHeader(order_id=header.order_id, site=site, code=ErrorCode.UNKNOWN)
            return sealed(Packet.of(refusal), KEYS[site])
        known.add("order")
        return packed(site, asked)

    found, grid = exchange(answer)
    assert [r.site for r in found.reports] == ["a", "b"]
    orders = [p for p in grid.sent if isinstance(p.read(), OrderHeader) and p.read().site == "a"]
    assert len(orders) == 2
    assert orders[0] == orders[1]


def test_a_long_order_is_asked_after_without_tensors():
    asked_after = []

    def answer(site, asked):
        header = asked.read()
        asked_after.append(header)
        if len([h for h in asked_after if h.order_id == header.order_id]) < 4:
            told = ProgressHeader(order_id=header.order_id, site=site, fraction=0.5)
            return sealed(Packet.of(told), KEYS[site])
        return packed(site, asked)

    found, grid = exchange(answer)
    assert [r.site for r in found.reports] == ["a", "b"]
    assert [packet.num_bytes > 0 for packet in grid.sent] == [True] * 2 + [False] * 6


def test_a_busy_site_is_asked_again_and_a_silent_one_is_called_off_at_the_deadline():
    busy = []

    def answer(site, asked):
        if site == "b":
            return "later"
        busy.append(site)
        if len(busy) < MOST_LOST + 3:
            refusal = FailureHeader(order_id=asked.read().order_id, site=site, code=ErrorCode.BUSY)
            return sealed(Packet.of(refusal), KEYS[site])
        return packed(site, asked)

    found, grid = exchange(answer, deadline_s=0.5)
    assert [r.site for r in found.reports] == ["a"]
    last = grid.sent[-1]
    silent = [p.read() for p in grid.sent if isinstance(p.read(), OrderHeader) and p.read().site == "b"]
    called_off = verified_header(last.header, last.seal, COORDINATOR.public)
    assert called_off == Cancellation(order_id=silent[0].order_id)
    assert sum(isinstance(p.read(), Cancellation) for p in grid.sent) == 1


def test_a_site_that_asks_for_its_order_for_ever_is_given_up():
    """One that answers nonsense and then says that it knows of no order, again and again."""

    def answer(site, asked):
        if site == "b":
            return packed(site, asked)
        if isinstance(asked.read(), OrderHeader):
            return Packet(b"nonsense")
        refusal = FailureHeader(order_id=asked.read().order_id, site=site, code=ErrorCode.UNKNOWN)
        return sealed(Packet.of(refusal), KEYS[site])

    started = time.monotonic()
    found, grid = exchange(answer, deadline_s=20.0)
    assert time.monotonic() - started < 10
    assert [r.site for r in found.reports] == ["b"]
    orders = [p for p in grid.sent if isinstance(p.read(), OrderHeader) and p.read().site == "a"]
    assert len(orders) == MOST_SENT


@pytest.mark.parametrize("claimed", ["a", "b", "unknown"])
@pytest.mark.parametrize("code", [ErrorCode.BUDGET, ErrorCode.INTERNAL])
def test_a_courier_s_own_word_is_told_and_decides_nothing(claimed, code):
    """One that finds no agent says so without a seal; so may one in strange hands: E_BUDGET ends studies."""

    def answer(site, asked):
        if site == "a":
            return report_to_packet(FailureReport(claimed, code), "")
        return packed(site, asked)

    found = exchange(answer)[0]
    assert [r.site for r in found.reports] == ["b"]
    assert found.said == {"a": f"courier: {code.value}"}


def test_in_a_simulation_a_node_may_fail_before_it_knows_its_name():
    def answer(site, asked):
        made = packed(site, asked)
        if site == "a":
            made = report_to_packet(FailureReport("unknown", ErrorCode.DATA), "")
        return dataclasses.replace(made, seal=b"")

    reports = exchange(answer, seals=NoSeals())[0].reports
    assert reports[0] == FailureReport("a", ErrorCode.DATA)
    assert [r.site for r in reports] == ["a", "b"]


@pytest.mark.parametrize(
    "said",
    [
        lambda other: report_to_packet(report("a"), other),
        lambda other: report_to_packet(FailureReport("a", ErrorCode.BUDGET), other),
        lambda other: Packet.of(ProgressHeader(order_id=other, site="a", fraction=0.5)),
        lambda other: report_to_packet(FailureReport("a", ErrorCode.BUDGET), ""),
    ],
)
def test_what_a_site_sealed_for_another_order_is_no_answer(said):
    """A hostile courier has kept it from another round or run."""

    def answer(site, asked):
        return packed(site, asked) if site == "b" else sealed(said("0" * 64), KEYS["a"])

    assert [r.site for r in exchange(answer)[0].reports] == ["b"]


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"kind":' * 50_000, b" " * (1 << 21) + b"{}"])
def test_a_header_that_is_made_to_break_readers_breaks_nothing(header):
    def answer(site, asked):
        return packed(site, asked) if site == "b" else Packet(header)

    assert [r.site for r in exchange(answer)[0].reports] == ["b"]

    def named(site, asked):
        return Packet(header) if site == "a" else introduced(site, asked)

    with pytest.raises(FederationError, match="not connected"):
        find_sites(FakeGrid(named), ("a", "b"), 0.1, SEALS)


def test_tensors_of_a_kind_that_nobody_reads_are_no_report():
    content = b'{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    broken = len(content).to_bytes(8, "little") + content + b"\0" * 3

    def answer(site, asked):
        made = packed(site, asked)
        if site == "b":
            return made
        header = made.read().model_copy(update={"parameters": describe(broken)})
        return sealed(Packet.of(header, {"parameters": broken}), KEYS["a"])

    assert [r.site for r in exchange(answer)[0].reports] == ["b"]


def test_a_site_that_is_offline_for_a_while_loses_nothing():
    asked_before = []

    def answer(site, asked):
        if site == "b":
            return packed(site, asked)
        asked_before.append(asked.read())
        away = 1 < len(asked_before) < MOST_LOST + 4
        grid.online = {12} if away else {11, 12}
        if len(asked_before) == 1:
            progress = ProgressHeader(order_id=asked.read().order_id, site="a", fraction=0.5)
            return sealed(Packet.of(progress), KEYS["a"])
        return None if away else packed(site, asked)

    grid = FakeGrid(answer)
    found, _ = exchange(answer, grid=grid)
    assert sorted(r.site for r in found.reports) == ["a", "b"]
    assert sum(isinstance(header, OrderHeader) for header in asked_before) == 1


def test_a_site_that_stays_offline_holds_up_one_round_and_no_other(monkeypatch):
    monkeypatch.setattr(flower_transport, "OFFLINE_S", 0.3)

    def answer(site, asked):
        return packed(site, asked) if site == "b" else None

    grid = FakeGrid(answer)
    grid.online = {12}
    gone = set()
    for least, most in ((0.3, 5.0), (0.0, 0.2)):
        started = time.monotonic()
        found, _ = exchange(answer, grid=grid, gone=gone)
        assert [r.site for r in found.reports] == ["b"]
        assert found.said == {"a": "offline" if least else "order sent"}
        assert least <= time.monotonic() - started < most
    grid.online = {11, 12}
    grid.answer = packed
    assert len(exchange(packed, grid=grid, gone=gone)[0].reports) == 2


def find_sites(grid, sites, deadline_s, seals, enough=None):
    finder = SiteFinder(grid, sites, seals)
    finder.wait(enough or len(sites), deadline_s)
    return finder.node_of


def introduced(site, asked, key=None, **changes):
    said = Introduction(nonce=asked.read().nonce, site=site, release="1").model_copy(update=changes)
    return sealed(Packet.of(said), key or KEYS.get(site, STRANGER))


def test_sites_are_found_by_what_they_say_under_their_seal():
    grid = FakeGrid(introduced, {**NODES, "stranger": 13})
    assert find_sites(grid, ("a", "b"), 5.0, SEALS) == NODES
    assert all(isinstance(packet.read(), Question) for packet in grid.sent)
    assert len({packet.read().nonce for packet in grid.sent}) == 3


def test_an_impostor_who_is_first_changes_nothing():
    def answer(site, asked):
        return introduced("a", asked, STRANGER) if site == "impostor" else introduced(site, asked)

    assert find_sites(FakeGrid(answer, {"impostor": 9, **NODES}), ("a", "b"), 5.0, SEALS) == NODES


@pytest.mark.parametrize(
    "unable",
    [
        lambda asked: introduced("a", asked, nonce="0" * 64),  # overheard before
        lambda asked: Packet.of(FailureHeader(order_id="", site="unknown", code=ErrorCode.CONFIG)),
        lambda asked: Packet(b"nonsense"),
        lambda asked: RecordDict(),
        lambda asked: None,
    ],
)
def test_a_node_that_cannot_say_its_name_is_counted_told_of_and_asked_again(unable):
    def answer(site, asked):
        return unable(asked) if site == "a" else introduced(site, asked)

    with pytest.raises(FederationError, match=r"not connected .*: a; 1 other nodes"):
        find_sites(FakeGrid(answer), ("a", "b"), 0.1, SEALS)
    asked_before = []

    def mended_later(site, asked):
        asked_before.append(site)
        return answer(site, asked) if asked_before.count("a") < 3 else introduced(site, asked)

    assert find_sites(FakeGrid(mended_later), ("a", "b"), 5.0, SEALS) == NODES


def test_two_nodes_of_one_name_are_refused():
    grid = FakeGrid(lambda site, asked: introduced("a", asked))
    with pytest.raises(FederationError, match="two nodes call themselves a"):
        find_sites(grid, ("a", "b"), 0.1, SEALS)


def test_a_simulation_needs_no_seals():
    def answer(site, asked):
        made = introduced(site, asked) if isinstance(asked.read(), Question) else packed(site, asked)
        return dataclasses.replace(made, seal=b"")

    assert find_sites(FakeGrid(answer), ("a", "b"), 5.0, NoSeals()) == NODES
    found, grid = exchange(answer, seals=NoSeals())
    assert [r.site for r in found.reports] == ["a", "b"]
    assert all(packet.seal == b"" for packet in grid.sent)


def test_enough_sites_do_not_wait_for_ever_for_the_others(monkeypatch):
    monkeypatch.setattr(finding, "GRACE_S", 0.05)
    grid = FakeGrid(introduced, {"a": 11})
    assert find_sites(grid, ("a", "b"), 5.0, SEALS, enough=1) == {"a": 11}
    with pytest.raises(FederationError, match="not connected"):
        find_sites(FakeGrid(introduced, {"a": 11}), ("a", "b"), 0.1, SEALS)


def test_a_site_that_is_not_connected_holds_up_nobody():
    started = time.monotonic()
    found, grid = exchange(
        lambda site, asked: None if isinstance(asked.read(), Question) else packed(site, asked),
        connected={"a": 11},
    )
    assert [r.site for r in found.reports] == ["a"]
    assert time.monotonic() - started < 3.0
    assert {p.read().site for p in grid.sent if isinstance(p.read(), OrderHeader)} == {"a"}


def test_a_site_that_connects_while_others_are_at_work_takes_part():
    answered = []

    def answer(site, asked):
        if isinstance(asked.read(), Question):
            return introduced(site, asked)
        answered.append(site)
        if site == "a" and "b" not in answered:
            return "later"
        return packed(site, asked)

    found, _ = exchange(answer, connected={"a": 11})
    assert [r.site for r in found.reports] == ["a", "b"]


def test_a_site_that_is_revoked_while_a_run_goes_on_counts_no_more():
    known = dict(PUBLIC)
    seals = StudySeals(COORDINATOR, lambda: known)
    assert len(exchange(packed, seals)[0].reports) == 2
    del known["b"]
    assert [r.site for r in exchange(packed, seals)[0].reports] == ["a"]
