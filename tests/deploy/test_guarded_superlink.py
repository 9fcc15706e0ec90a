"""What a site may put on the coordinator's disk: as much as the study's largest report, and no more."""

import importlib
import inspect
from types import SimpleNamespace

import pytest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from common.federation.messages import TrainOrder
from common.federation.packet import Packet
from common.federation.packing import report_to_packet
from common.federation.stage import Stage
from common.federation.wire import PIECE_BYTES, packet_to_records
from deploy.disk_need import largest_message
from deploy.guarded_superlink import LARGEST_OBJECT, guard, most_objects
from deploy.guarded_supernode import GuardError
from deploy.processes import superlink
from server.state import initial_state, start_diffusion
from tests.small_federation import make_site, small_study, write_volumes

STORED = "stored"


@pytest.fixture
def handlers(monkeypatch):
    """Flower's handlers, which store whatever they are given."""
    found = importlib.import_module("flwr.superlink.servicer.fleet.fleet_handlers")
    for name in ("push_messages", "push_object"):
        monkeypatch.setattr(found, name, lambda request, state: STORED)
    return found


def tree(*children):
    return SimpleNamespace(children=children)


def announcement(*trees):
    return SimpleNamespace(message_object_trees=trees, node=SimpleNamespace(node_id=7))


def sent(size):
    return SimpleNamespace(object_content=bytes(size), node=SimpleNamespace(node_id=7))


def test_a_message_of_as_many_objects_as_a_report_has_is_taken_and_one_more_is_not(handlers, caplog):
    guard(10 * PIECE_BYTES)
    most = most_objects(10 * PIECE_BYTES)
    leaves = [tree() for _ in range(most - 1)]
    assert handlers.push_messages(announcement(tree(*leaves)), None) == STORED
    for too_many in (announcement(tree(*leaves, tree())), announcement(tree(*leaves), tree())):
        with pytest.raises(Exception, match="E_DISK") as refused:
            handlers.push_messages(too_many, None)
        assert refused.value.status_code == 413
    assert "E_DISK: connection 7 would send a message of more than 36 objects" in caplog.text


def test_objects_that_are_nested_deeply_are_counted_like_others(handlers):
    guard(PIECE_BYTES)
    nested = tree()
    for _ in range(100_000):
        nested = tree(nested)
    with pytest.raises(Exception, match="E_DISK"):
        handlers.push_messages(announcement(nested), None)


def test_an_object_that_is_larger_than_any_piece_is_not_taken(handlers):
    guard(10 * PIECE_BYTES)
    assert handlers.push_object(sent(LARGEST_OBJECT), None) == STORED
    with pytest.raises(Exception, match="E_DISK") as refused:
        handlers.push_object(sent(LARGEST_OBJECT + 1), None)
    assert refused.value.status_code == 413


@pytest.mark.parametrize("missing", ["push_messages", "push_object"])
def test_a_flower_with_another_inside_starts_nothing(handlers, monkeypatch, missing):
    monkeypatch.delattr(handlers, missing)
    with pytest.raises(GuardError, match=missing):
        guard(1)


def test_flower_still_asks_the_guarded_names():
    """What the guard rests on, in the source of the pinned version."""
    router = importlib.import_module("flwr.superlink.routers.fleet.router")
    assert "fleet_handlers.push_messages(" in inspect.getsource(router.fleet_push_messages)
    assert "fleet_handlers.push_object(" in inspect.getsource(router.fleet_push_object)


def objects_of(packet: Packet):
    """Return what Flower makes of a packet: the tree that it announces, and the sizes of what it sends."""
    records = packet_to_records(packet)
    sizes = [len(part.deflate()) for part in get_all_nested_objects(records).values()]
    return tree(get_object_tree(records)), sizes  # the message itself is around them


@pytest.mark.parametrize("channels", [8, 96])
def test_every_report_of_a_study_is_within_the_quota(tmp_path, handlers, channels):
    study = small_study(("a",), codec__model__channels=channels)
    guard(largest_message(study))
    site = make_site("a", write_volumes(tmp_path / "data", 3, 1), tmp_path / "state", study)
    state = initial_state(study)
    later = start_diffusion(state, study)
    orders = (
        TrainOrder(study.digest, "a", Stage.CODEC, 1, state.codec),
        TrainOrder(study.digest, "a", Stage.DIFFUSION, 1, later.denoiser, later.frozen_digest, later.frozen),
    )
    for order in orders:
        announced, sizes = objects_of(report_to_packet(site.execute(order), "0" * 64))
        assert handlers.push_messages(announcement(announced), None) == STORED
        assert max(sizes) <= LARGEST_OBJECT


def test_the_server_is_started_with_the_quota_of_its_study(tmp_path):
    study = small_study(("a", "b"))
    coordinator = SimpleNamespace(folder=tmp_path, study=study)
    words = superlink(coordinator, 8000).words
    assert words[1:4] == ("-m", "deploy.guarded_superlink", str(largest_message(study)))
