"""What goes over the wire comes back equal, and nothing else passes the allow-list."""

import dataclasses
import math

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ErrorCode, RejectedReportError, WireError
from common.federation.allow_list import check_report
from common.federation.messages import FailureReport, LedgerProof, Stage, TrainOrder, TrainReport
from common.federation.wire import (
    num_bytes,
    order_from_records,
    order_to_records,
    report_from_records,
    report_to_records,
)

dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
names = st.text("abc._0", min_size=1, max_size=8)


@st.composite
def tensors(draw):
    return draw(st.dictionaries(names, st.tuples(shapes, dtypes), max_size=4).map(
        lambda d: {n: torch.arange(math.prod(s)).reshape(s).to(t) for n, (s, t) in d.items()}
    ))  # fmt: skip


def order(parameters):
    return TrainOrder(
        "d" * 64, "a", Stage.CODEC, 2, parameters, "c" * 64, {"e": torch.ones(2)}, "run", "h" * 64
    )


def report(parameters, **changes):
    base = TrainReport("d" * 64, "a", Stage.CODEC, 2, parameters, steps=5, seconds=1.5, metrics={"l1": 0.25})
    return dataclasses.replace(base, **changes)


def assert_equal_tensors(left, right):
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name])


@given(tensors())
def test_an_order_survives_the_wire(parameters):
    sent = order(parameters)
    received = order_from_records(order_to_records(sent))
    assert_equal_tensors(received.parameters, sent.parameters)
    assert_equal_tensors(received.frozen, sent.frozen)
    assert dataclasses.replace(received, parameters={}, frozen={}) == dataclasses.replace(
        sent, parameters={}, frozen={}
    )


PROOF = LedgerProof("s" * 64, ("b" * 64, "c" * 64), "h" * 64)


@given(tensors(), st.sampled_from([None, PROOF]))
def test_a_report_survives_the_wire(parameters, proof):
    sent = report(parameters, ledger=proof)
    received = report_from_records(report_to_records(sent))
    assert_equal_tensors(received.parameters, sent.parameters)
    assert dataclasses.replace(received, parameters={}) == dataclasses.replace(sent, parameters={})


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_failure_says_its_code_and_nothing_else(code):
    records = report_to_records(FailureReport("a", code))
    assert dict(records.config_records["header"]) == {"site": "a", "code": code.value}
    assert report_from_records(records) == FailureReport("a", code)


def test_bytes_are_those_of_the_arrays():
    assert num_bytes(order_to_records(order({"w": torch.zeros(10, dtype=torch.float64)}))) == 80 + 8


def test_bfloat16_is_refused_by_name():
    with pytest.raises(WireError, match=r"tensor w is bfloat16"):
        order_to_records(order({"w": torch.zeros(1, dtype=torch.bfloat16)}))


@pytest.mark.parametrize("records", [RecordDict(), RecordDict({"header": ConfigRecord({"site": "a"})})])
@pytest.mark.parametrize("read", [order_from_records, report_from_records])
def test_records_of_something_else_are_a_named_error(records, read):
    with pytest.raises(WireError):
        read(records)


GOOD = {"w": torch.ones(2, 3), "n": torch.ones(1, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "b"}, "site is 'b'"),
        ({"round_index": 3}, "round_index is 3"),
        ({"stage": Stage.DIFFUSION}, "stage is"),
        ({"study_digest": "e"}, "study_digest"),
        ({"steps": -1}, "out of range"),
        ({"seconds": float("nan")}, "out of range"),
        ({"parameters": {"w": GOOD["w"]}}, r"missing \['n'\]"),
        ({"parameters": {**GOOD, "x": torch.ones(1)}}, r"not asked for \['x'\]"),
        ({"parameters": {**GOOD, "w": torch.ones(3, 2)}}, r"tensor w is \(3, 2\)"),
        ({"parameters": {**GOOD, "w": torch.ones(2, 3, dtype=torch.float64)}}, "float64"),
        ({"parameters": {**GOOD, "w": torch.tensor([[1, 2, math.inf], [1, 1, 1]])}}, "not finite"),
        ({"parameters": {**GOOD, "w": torch.full((2, 3), math.nan)}}, "not finite"),
    ],
)
def test_the_allow_list_refuses_by_name(change, message):
    check_report(report(GOOD), order(GOOD))
    with pytest.raises(RejectedReportError, match=message):
        check_report(report(GOOD, **change) if "parameters" not in change else report(**change), order(GOOD))


PRIVATE = {"metrics": {}, "seconds": 0.0, "ledger": PROOF}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"loss": 0.5}}, "holds metrics or a time"),
        ({"seconds": 1.0}, "holds metrics or a time"),
        ({"ledger": None}, "proof is missing"),
        ({"parameters": {**GOOD, "x": torch.ones(1)}}, r"not asked for \['x'\]"),
    ],
)
def test_a_private_report_may_hold_less(change, message):
    check_report(report(GOOD, **PRIVATE), order(GOOD), private=True)
    with pytest.raises(RejectedReportError, match=message):
        check_report(dataclasses.replace(report(GOOD, **PRIVATE), **change), order(GOOD), private=True)


def test_a_report_that_was_not_asked_for_a_proof_may_not_bring_one():
    with pytest.raises(RejectedReportError, match="was not asked for"):
        check_report(report(GOOD, ledger=PROOF), order(GOOD))
