"""Packets over Flower's grid: each node speaks for its own site, and lost messages lose no work."""

import dataclasses
import time

import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from common.errors import ErrorCode, FederationError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    OrderHeader,
    ProgressHeader,
)
from common.federation.messages import FailureReport
from common.federation.packet import Packet, describe
from common.federation.packing import report_to_packet
from common.federation.sealing import sealed, verified_header
from common.federation.wire import packet_to_records
from server.errand import MOST_LOST, MOST_SENT
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
    packed,
    report,
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
