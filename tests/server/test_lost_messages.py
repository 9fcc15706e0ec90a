"""Messages that are lost or late over Flower's grid: no work is lost, and nothing is kept for ever."""

import time
from types import SimpleNamespace

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import ErrorCode
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    OrderHeader,
)
from common.federation.messages import TrainReport
from common.federation.packet import Packet
from common.federation.sealing import sealed
from common.federation.wire import packet_from_records
from server import errand
from tests.server.fake_grid import (
    KEYS,
    STRANGER,
    FakeGrid,
    exchange,
    order,
    packed,
    transport_over,
)

pytestmark = pytest.mark.usefixtures("hurried")


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
    monkeypatch.setattr(errand, "ANSWER_S", 0.05)
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
        return [errand.Errand(packet, name) for name in "abc"]

    small, large = errands(20_000), errands(200_000_000)
    assert errand.answer_s(small[0], small) == pytest.approx(90, abs=1)
    assert errand.answer_s(large[0], large) == pytest.approx(90 + 400 + 120)


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
    monkeypatch.setattr(errand, "ANSWER_S", 0.05)
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
    monkeypatch.setattr(errand, "ANSWER_S", 0.05)
    monkeypatch.setattr(errand, "MOST_LOST", 1000)


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
