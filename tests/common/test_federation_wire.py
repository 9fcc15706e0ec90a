"""What goes over the wire comes back equal, and nothing else passes the allow-list."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ErrorCode, RejectedReportError, WireError
from common.federation.allow_list import ReportRules, check_report
from common.federation.headers import (
    Cancellation,
    FollowUp,
    OrderHeader,
    ProgressHeader,
    header_from_bytes,
    header_to_bytes,
)
from common.federation.messages import FailureReport, LedgerProof, TrainOrder, TrainReport
from common.federation.packet import Packet, describe
from common.federation.packing import (
    order_from_packet,
    order_to_packet,
    report_from_packet,
    report_to_packet,
)
from common.federation.stage import Stage
from common.federation.wire import PIECE_BYTES, packet_from_records, packet_to_records

dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
names = st.text("abc._0", min_size=1, max_size=8)


@st.composite
def tensors(draw):
    return draw(st.dictionaries(names, st.tuples(shapes, dtypes), max_size=4).map(
        lambda d: {n: torch.arange(math.prod(s)).reshape(s).to(t) for n, (s, t) in d.items()}
    ))  # fmt: skip


def order(parameters, **changes):
    base = TrainOrder(
        "d" * 64, "a", Stage.CODEC, 2, parameters, "c" * 64, {"e": torch.ones(2)}, "run", 3, "b" * 64
    )
    return dataclasses.replace(base, **changes)


def report(parameters, **changes):
    base = TrainReport("d" * 64, "a", Stage.CODEC, 2, parameters, steps=5, seconds=1.5, metrics={"l1": 0.25})
    return dataclasses.replace(base, **changes)


def carried(packet):
    """What arrives of a packet that Flower carries."""
    return packet_from_records(packet_to_records(packet))


def assert_equal_tensors(left, right):
    assert sorted(left) == sorted(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name])


@given(tensors())
def test_an_order_survives_the_wire(parameters):
    sent = order(parameters)
    received = order_from_packet(carried(order_to_packet(sent, 60.0)))
    assert_equal_tensors(received.parameters, sent.parameters)
    assert_equal_tensors(received.frozen, sent.frozen)
    assert dataclasses.replace(received, parameters={}, frozen={}) == dataclasses.replace(
        sent, parameters={}, frozen={}
    )


PROOF = LedgerProof("1" * 64, ("b" * 64, "c" * 64), "2" * 64)
ID = "f" * 64


@given(tensors(), st.sampled_from([None, PROOF]))
def test_a_report_survives_the_wire(parameters, proof):
    sent = report(parameters, ledger=proof)
    received = report_from_packet(carried(report_to_packet(sent, ID)))
    assert_equal_tensors(received.parameters, sent.parameters)
    assert dataclasses.replace(received, parameters={}) == dataclasses.replace(sent, parameters={})


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_failure_says_its_code_and_nothing_else(code):
    packet = carried(report_to_packet(FailureReport("a", code), ID))
    assert json.loads(packet.header) == {"kind": "failure", "order_id": ID, "site": "a", "code": code.value}
    assert report_from_packet(packet) == FailureReport("a", code)
    assert not packet.sections


@pytest.mark.parametrize(
    "header",
    [FollowUp(order_id=ID), Cancellation(order_id=ID), ProgressHeader(order_id=ID, site="a", fraction=0.5)],
)
def test_small_messages_survive_the_wire(header):
    assert carried(Packet.of(header)).read() == header


def test_bytes_travel_in_pieces_of_one_mebibyte_and_are_counted():
    packet = order_to_packet(order({"w": torch.randn(600_000)}), 60.0)
    pieces = packet_to_records(packet).array_records["section.parameters"]
    sizes = [len(array.numpy()) for array in pieces.values()]
    assert sizes == [PIECE_BYTES, PIECE_BYTES, len(packet.sections["parameters"]) - 2 * PIECE_BYTES]
    assert packet.num_bytes == sum(map(len, packet.sections.values()))
    assert 0 < packet.num_bytes - 4 * 600_002 < 1000


def test_a_metric_that_is_no_number_does_not_travel():
    sent = report({}, metrics={"loss": math.nan, "l1": 0.5, "kl": math.inf})
    assert report_from_packet(report_to_packet(sent, ID)).metrics == {"l1": 0.5}


BASE = order({"w": torch.zeros(2)})


@pytest.mark.parametrize(
    "change",
    [
        {"study_digest": "e" * 64},
        {"site": "b"},
        {"stage": Stage.DIFFUSION},
        {"round_index": 3},
        {"attempt": 4},
        {"run": "other"},
        {"frozen_digest": ""},
        {"parameters": {"w": torch.ones(2)}},
        {"parameters": {"v": torch.zeros(2)}},
    ],
)
def test_an_order_about_something_else_is_another_order(change):
    ids = {
        order_to_packet(sent, 60.0).read_as(OrderHeader).order_id
        for sent in (BASE, dataclasses.replace(BASE, **change))
    }
    assert len(ids) == 2


def test_an_order_that_is_asked_again_is_the_same_order():
    again = dataclasses.replace(BASE, ledger_head="", frozen={})
    first, second = (
        order_to_packet(sent, seconds).read_as(OrderHeader) for sent, seconds in ((BASE, 60.0), (again, 90.0))
    )
    assert first != second
    assert first.order_id == second.order_id


def altered(packet, **sections):
    return dataclasses.replace(packet, sections={**packet.sections, **sections})


PACKET = order_to_packet(BASE, 60.0)


@pytest.mark.parametrize(
    "packet",
    [
        altered(PACKET, parameters=PACKET.sections["parameters"][:-1]),
        altered(PACKET, parameters=PACKET.sections["parameters"][:-1] + b"x"),
        altered(PACKET, frozen=PACKET.sections["parameters"]),
        altered(PACKET, extra=b""),
        dataclasses.replace(PACKET, sections={}),
        Packet(header_to_bytes(FollowUp(order_id=ID)), b"", {"parameters": b"x"}),
        report_to_packet(report({}), ID),
        Packet(b""),
        Packet(b"[]"),
        Packet(b'{"kind": "order"}'),
        Packet(b'{"kind": ["order"]}'),
        Packet(PACKET.header.replace(b'"attempt":3', b'"attempt":0'), b"", PACKET.sections),
        Packet(PACKET.header.replace(b'"attempt":3', b'"attempt":3,"text":"x"'), b"", PACKET.sections),
    ],
)
def test_a_packet_that_is_not_what_its_header_says_is_refused(packet):
    assert order_from_packet(PACKET)
    with pytest.raises(WireError):
        order_from_packet(packet)


def test_a_manifest_that_does_not_fit_the_tensors_is_refused():
    header = PACKET.read_as(OrderHeader).model_copy(update={"manifest": "0" * 64})
    with pytest.raises(WireError, match="manifest"):
        order_from_packet(Packet.of(header, PACKET.sections))


def test_a_section_that_holds_no_tensors_is_refused():
    sent = Packet.of(PACKET.read(), PACKET.sections)
    broken = {**PACKET.sections, "parameters": b"no tensors"}
    header = header_from_bytes(sent.header).model_copy(update={"parameters": describe(b"no tensors")})
    with pytest.raises(WireError, match="no tensors"):
        order_from_packet(Packet.of(header, broken))


NUMBERS = ArrayRecord({"00": Array(np.ones(3, dtype=np.float32))})
BROKEN = ArrayRecord({"00": Array(dtype="uint8", shape=(1,), stype="numpy.ndarray", data=b"")})
ENVELOPE = ConfigRecord({"header": PACKET.header, "seal": b""})


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"envelope": ConfigRecord({"header": "text", "seal": b""})}),
        RecordDict({"envelope": ConfigRecord({"header": b""})}),
        RecordDict({"envelope": ENVELOPE, "section.parameters": NUMBERS}),
        RecordDict({"envelope": ENVELOPE, "section.parameters": BROKEN}),
    ],
)
def test_records_of_something_else_are_a_named_error(records):
    with pytest.raises(WireError):
        packet_from_records(records)


RULES = ReportRules(steps=5, counts="counts")
PRIVATE_RULES = ReportRules(steps=5, private=True, furthest=10.0)
GOOD = {"w": torch.ones(2, 3), "n": torch.ones(1, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "b"}, "site is 'b'"),
        ({"round_index": 3}, "round_index is 3"),
        ({"stage": Stage.DIFFUSION}, "stage is"),
        ({"study_digest": "e"}, "study_digest"),
        ({"steps": -1}, "-1 steps, the study makes 5"),
        ({"steps": 137}, "137 steps"),
        ({"seconds": -1.0}, "out of range"),
        ({"seconds": float("nan")}, "out of range"),
        ({"parameters": {"w": GOOD["w"]}}, r"missing \['n'\]"),
        ({"parameters": {**GOOD, "x": torch.ones(1)}}, r"not asked for \['x'\]"),
        ({"parameters": {**GOOD, "w": torch.ones(3, 2)}}, r"tensor w is \(3, 2\)"),
        ({"parameters": {**GOOD, "w": torch.ones(2, 3, dtype=torch.float64)}}, "float64"),
        ({"parameters": {**GOOD, "w": torch.tensor([[1, 2, math.inf], [1, 1, 1]])}}, "not finite"),
        ({"parameters": {**GOOD, "w": torch.full((2, 3), math.nan)}}, "not finite"),
        ({"parameters": {**GOOD, "w": torch.full((2, 3), 3e38)}}, "moved by 7.*at most"),
        ({"parameters": {**GOOD, "w": torch.full((2, 3), 1e6)}}, "moved by"),
    ],
)
def test_the_allow_list_refuses_by_name(change, message):
    check_report(report(GOOD), order(GOOD), RULES)
    answer = report(GOOD, **change) if "parameters" not in change else report(**change)
    with pytest.raises(RejectedReportError, match=message):
        check_report(answer, order(GOOD), RULES)


PRIVATE = {"metrics": {}, "seconds": 0.0, "ledger": PROOF}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"loss": 0.5}}, "holds metrics or a time"),
        ({"seconds": 1.0}, "holds metrics or a time"),
        ({"ledger": None}, "proof is missing"),
        ({"parameters": {**GOOD, "x": torch.ones(1)}}, r"not asked for \['x'\]"),
        ({"parameters": {**GOOD, "w": torch.full((2, 3), 6.0)}}, "moved by 12.*at most 10"),
        ({"steps": 6}, "6 steps"),
    ],
)
def test_a_private_report_may_hold_less(change, message):
    check_report(report(GOOD, **PRIVATE), order(GOOD), PRIVATE_RULES)
    with pytest.raises(RejectedReportError, match=message):
        check_report(dataclasses.replace(report(GOOD, **PRIVATE), **change), order(GOOD), PRIVATE_RULES)


def test_a_report_that_was_not_asked_for_a_proof_may_not_bring_one():
    with pytest.raises(RejectedReportError, match="was not asked for"):
        check_report(report(GOOD, ledger=PROOF), order(GOOD), RULES)


COUNTED = {"counts": torch.full((4,), 2.0)}


@pytest.mark.parametrize(
    "counts", [[9.0, -1.0, 0.0, 0.0], [0.0] * 4, [2.0, 2.0, 2.0, 2.1], [8e30, 0.0, 0.0, 0.0]]
)
def test_counts_below_zero_or_of_another_total_are_refused(counts):
    check_report(report({"counts": torch.tensor([8.0, 0.0, 0.0, 0.0])}), order(COUNTED), RULES)
    with pytest.raises(RejectedReportError, match="counts"):
        check_report(report({"counts": torch.tensor(counts)}), order(COUNTED), RULES)
