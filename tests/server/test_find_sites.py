"""Who is who: a node is a site once it has said so under its seal."""

import dataclasses

import pytest
from flwr.app import RecordDict

from common.errors import ErrorCode, FederationError
from common.federation.headers import (
    FailureHeader,
    Question,
)
from common.federation.packet import Packet
from server import find_sites as finding
from server.seals import NoSeals
from tests.server.fake_grid import (
    NODES,
    SEALS,
    STRANGER,
    FakeGrid,
    exchange,
    find_sites,
    introduced,
    packed,
)

pytestmark = pytest.mark.usefixtures("hurried")


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
