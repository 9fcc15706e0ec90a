"""Packets over Flower's grid: each node speaks for its own site, and lost messages lose no work."""

import dataclasses
import time
from types import SimpleNamespace

import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import ErrorCode, FederationError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    OrderHeader,
    ProgressHeader,
)
from common.federation.messages import FailureReport, TrainReport
from common.federation.packet import Packet, describe
from common.federation.packing import report_to_packet
from common.federation.sealing import sealed, verified_header
from common.federation.wire import packet_from_records, packet_to_records
from server import flower_transport
from server.flower_transport import MOST_LOST, MOST_SENT
from server.seals import NoSeals
from tests.server.fake_grid import (
    COORDINATOR,
    KEYS,
    SEALS,
    STRANGER,
    FakeGrid,
    exchange,
    find_sites,
    introduced,
    order,
    packed,
    report,
    transport_over,
)

pytestmark = pytest.mark.usefixtures("hurried")


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


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, RecursionError, MemoryError])
def test_an_answer_that_flower_cannot_unfold_is_a_lost_one(error):
    broken = {"a"}

    def answer(site, asked):
        if site in broken:
            broken.discard(site)
            raise error("made to break its reader")
        return packed(site, asked)

    found, grid = exchange(answer)
    assert [r.site for r in found.reports] == ["a", "b"]
    assert sum(isinstance(packet.read(), FollowUp) for packet in grid.sent) == 1


def test_a_server_that_does_not_answer_is_no_lost_answer():
    def answer(site, asked):
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        exchange(answer)


def test_an_answer_that_came_while_another_was_fetched_is_not_lost(monkeypatch):
    monkeypatch.setattr(flower_transport, "ANSWER_S", 0.05)
    fetched = []

    def answer(site, asked):
        if site == "a" and not fetched:
            return "later"
        if site == "b":
            time.sleep(0.2)  # a large report over a slow line
        fetched.append(site)
        return packed(site, asked)

    found, grid = exchange(answer)
    assert {r.site for r in found.reports} == {"a", "b"}
    assert not any(isinstance(packet.read(), FollowUp) for packet in grid.sent)


def test_an_answer_gets_time_for_the_model_s_way_there_and_back_and_little_more():
    """By hand: 200 MB at 1 MB/s, and 600 MB of all sites at 10 MB/s, twice; and the minute and a half."""

    def errands(num_bytes):
        packet = SimpleNamespace(num_bytes=num_bytes)
        return [flower_transport._Errand(packet, name) for name in "abc"]

    small, large = errands(20_000), errands(200_000_000)
    assert flower_transport._answer_s(small[0], small) == pytest.approx(90, abs=1)
    assert flower_transport._answer_s(large[0], large) == pytest.approx(90 + 400 + 120)


def test_answers_that_nobody_waits_for_do_not_stay_at_flower_s_server(tmp_path):
    silent = {"b"}
    grid = FakeGrid(lambda site, asked: "later" if site in silent else packed(site, asked))
    transport = transport_over(grid, tmp_path)
    transport.exchange([order("a"), order("b")], 0.2)
    assert [type(packet.read()) for packet in grid.sent][-1] is Cancellation
    unheard = set(transport.unheard)
    assert len(unheard) == 2  # the order, and that it is called off
    transport._forget_answers()
    assert set(transport.unheard) == unheard  # nothing has come: it may come later
    silent.clear()
    grid.answer = lambda site, asked: None if isinstance(asked.read(), Cancellation) else packed(site, asked)
    transport.exchange([order("a"), order("b")], 5.0)
    assert not unheard & grid.waiting.keys()
    assert not transport.unheard


def test_the_answer_to_a_lost_message_does_not_stay_at_flower_s_server_either(tmp_path, monkeypatch):
    monkeypatch.setattr(flower_transport, "ANSWER_S", 0.05)
    slow = {"a"}

    def answer(site, asked):
        late = site in slow and isinstance(asked.read(), OrderHeader)
        return "later" if late else packed(site, asked)

    grid = FakeGrid(answer)
    transport = transport_over(grid, tmp_path)
    found = transport.exchange([order("a"), order("b")], 5.0)
    assert {r.site for r in found.reports} == {"a", "b"}
    assert len(transport.unheard) == 1
    slow.clear()
    transport._forget_answers()
    assert not transport.unheard
    assert not grid.waiting


@pytest.fixture
def impatient(monkeypatch):
    """Let every message be taken for lost at once, and no site for gone."""
    monkeypatch.setattr(flower_transport, "ANSWER_S", 0.05)
    monkeypatch.setattr(flower_transport, "MOST_LOST", 1000)


@pytest.mark.usefixtures("impatient")
def test_a_report_that_takes_longer_than_its_message_s_patience_is_taken_when_it_comes():
    """Over a slow line, or one that was cut: the upload goes on, and is not begun again."""
    began = time.monotonic()

    def answer(site, asked):
        if site == "b":
            return packed(site, asked)
        comes = isinstance(asked.read(), OrderHeader) and time.monotonic() > began + 0.2
        return packed(site, asked) if comes else "later"

    found, grid = exchange(answer)
    assert {r.site for r in found.reports} == {"a", "b"}
    assert sum(packet.num_bytes > 0 for packet in grid.sent) == 2  # each order once
    asked_again = next(iter(grid.waiting.values()))
    assert isinstance(packet_from_records(asked_again.content).read(), FollowUp)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("code", [ErrorCode.UNKNOWN, ErrorCode.DATA])
def test_what_an_old_answer_says_beside_a_report_is_not_asked(code):
    began = time.monotonic()

    def answer(site, asked):
        header = asked.read()
        if site == "b" or (isinstance(header, FollowUp) and time.monotonic() > began + 0.4):
            return packed(site, asked)
        if isinstance(header, OrderHeader) and time.monotonic() > began + 0.2:
            refusal = FailureHeader(order_id=header.order_id, site=site, code=code)
            return sealed(Packet.of(refusal), KEYS[site])
        return "later"

    found, grid = exchange(answer)
    assert {r.site for r in found.reports if isinstance(r, TrainReport)} == {"a", "b"}
    assert sum(isinstance(packet.read(), OrderHeader) for packet in grid.sent) == 2


@pytest.mark.usefixtures("impatient")
def test_a_late_report_by_somebody_else_does_not_count():
    began = time.monotonic()

    def answer(site, asked):
        if site == "b":
            return packed(site, asked)
        if isinstance(asked.read(), OrderHeader) and time.monotonic() > began + 0.2:
            return packed(site, asked, key=STRANGER)
        return "later"

    assert {r.site for r in exchange(answer, deadline_s=1.0)[0].reports} == {"b"}


def test_an_order_whose_parts_the_server_refuses_is_a_lost_message_and_no_end_of_the_study(monkeypatch):
    """A site may say that it has received what is still being sent: Flower throws it away, and objects."""
    grid = FakeGrid(packed)
    push, refused = grid.push_messages, []

    def pushed(messages):
        if not refused:
            refused.append(messages)
            raise ObjectPushError("piece", 1, "upload")
        return push(messages)

    monkeypatch.setattr(grid, "push_messages", pushed)
    found, _ = exchange(packed, grid=grid)
    assert {r.site for r in found.reports} == {"a", "b"}
    assert len(refused) == 1


def test_no_message_lives_longer_than_its_round(tmp_path):
    grid = FakeGrid(lambda site, asked: "later")
    lives = []
    push = grid.push_messages

    def pushed(messages):
        lives.extend(message.metadata.ttl for message in messages)
        return push(messages)

    grid.push_messages = pushed
    transport_over(grid, tmp_path).exchange([order("a"), order("b")], 2.0)
    orders = lives[:2]
    assert all(life <= 2.0 for life in orders)


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
