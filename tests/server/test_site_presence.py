"""Sites that are offline, absent, late or revoked hold up nobody, and lose no work."""

import time

import pytest

from common.federation.headers import (
    OrderHeader,
    ProgressHeader,
    Question,
)
from common.federation.packet import Packet
from common.federation.sealing import sealed
from server import flower_transport
from server.errand import MOST_LOST
from server.seals import StudySeals
from tests.server.fake_grid import COORDINATOR, KEYS, PUBLIC, FakeGrid, exchange, introduced, packed

pytestmark = pytest.mark.usefixtures("hurried")


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
    monkeypatch.setattr(flower_transport, "OFFLINE_S", 2.0)

    def answer(site, asked):
        return packed(site, asked) if site == "b" else None

    grid = FakeGrid(answer)
    grid.online = {12}
    gone = set()
    for least, most in ((2.0, 20.0), (0.0, 1.5)):  # the second is over before a wait would be
        started = time.monotonic()
        found, _ = exchange(answer, grid=grid, gone=gone)
        assert [r.site for r in found.reports] == ["b"]
        assert found.said == {"a": "offline"}
        assert least <= time.monotonic() - started < most
    grid.online = {11, 12}
    grid.answer = packed
    assert len(exchange(packed, grid=grid, gone=gone)[0].reports) == 2


def test_a_site_that_is_not_connected_holds_up_nobody():
    started = time.monotonic()
    found, grid = exchange(
        lambda site, asked: None if isinstance(asked.read(), Question) else packed(site, asked),
        connected={"a": 11},
    )
    assert [r.site for r in found.reports] == ["a"]
    assert found.said == {"b": "not connected"}
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


def test_of_a_site_that_is_at_its_order_it_is_said_that_it_was_sent_one():
    found, _ = exchange(lambda site, _: "later" if site == "a" else None, deadline_s=0.3)
    assert found.said == {"a": "order sent", "b": "no answer"}


def test_a_site_that_is_revoked_while_a_run_goes_on_counts_no_more():
    known = dict(PUBLIC)
    seals = StudySeals(COORDINATOR, lambda: known)
    assert len(exchange(packed, seals)[0].reports) == 2
    del known["b"]
    found, grid = exchange(packed, seals)
    assert [r.site for r in found.reports] == ["a"]
    assert found.said == {"b": "revoked or not enrolled"}
    assert "b" not in {p.read().site for p in grid.sent if isinstance(p.read(), OrderHeader)}


def test_a_site_that_is_revoked_after_its_report_arrived_counts_no_more():
    known, looks = dict(PUBLIC), []

    def answer(site, asked):
        if site == "b":
            return packed(site, asked)
        looks.append(site)
        if len(looks) == 3:  # b's report is there by now
            del known["b"]
        return "later" if len(looks) < 5 else packed(site, asked)

    found, _ = exchange(answer, StudySeals(COORDINATOR, lambda: known))
    assert [r.site for r in found.reports] == ["a"]
    assert found.said == {"b": "revoked or not enrolled"}
