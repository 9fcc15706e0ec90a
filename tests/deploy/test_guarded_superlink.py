"""What a site may put before the coordinator: one answer in its own name, as large as a report."""

import importlib
import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import text

from common.errors import ErrorCode
from common.federation.messages import FailureReport, TrainOrder
from common.federation.packing import report_to_packet
from common.federation.stage import Stage
from common.federation.wire import PIECE_BYTES, packet_to_records
from deploy.disk_need import largest_message
from deploy.guarded_superlink import LARGEST_OBJECT, LOCK_MS, Quota, RefusedError, guard
from deploy.guarded_supernode import GuardError
from deploy.processes import superlink
from deploy.superlink_uploads import PAUSE_S
from server.state import initial_state, start_diffusion
from tests.small_federation import make_site, small_study, write_volumes

STORED = "stored"
FLEET = "flwr.superlink.servicer.fleet.fleet_handlers"
FOR_DRIVER = "flwr.superlink.servicer.runtime.runtime_handlers"
REPLACED = (
    (FLEET, "push_messages"),
    (FLEET, "push_object"),
    (FLEET, "activate_node"),
    (FOR_DRIVER, "pull_messages"),
    (FOR_DRIVER, "pull_object"),
    ("flwr.supercore.corestate.sql_corestate", "OBJECT_PUSH_SESSION_TTL_SECONDS"),
    ("flwr.supercore.sql_mixin", "SQLITE_PRAGMAS"),
)
NODE, SERVER = 7, 1
QUOTA = Quota(10 * PIECE_BYTES)


@pytest.fixture
def handlers(monkeypatch):
    """Flower's handlers, which store whatever they are given."""
    found = importlib.import_module(FLEET)
    for place, name in REPLACED:
        module = importlib.import_module(place)
        monkeypatch.setattr(module, name, getattr(module, name))  # and back, after the test
    for name in ("push_messages", "push_object"):
        monkeypatch.setattr(found, name, lambda request, state: SimpleNamespace(stored=STORED))
    return found


def tree(name="a", *children):
    return ObjectTree(object_id=name, children=children)


def announcement(announced, **about):
    """Return an announcement of an answer to the server; ``about`` changes what is said of it."""
    metadata = {
        "run_id": 1,
        "message_id": announced.object_id,
        "src_node_id": NODE,
        "dst_node_id": SERVER,
        "reply_to_message_id": "asked",
        **about,
    }
    request = PushMessagesRequest(node=Node(node_id=NODE), message_object_trees=[announced])
    message = request.messages_list.add()
    for name, value in metadata.items():
        setattr(message.metadata, name, value)
    return request


def wide(num):
    return tree("root", *(tree(f"{index}") for index in range(num - 1)))


def nested(num):
    made = tree("leaf")
    for index in range(num - 1):
        made = tree(f"{index}", made)
    return made


@pytest.mark.parametrize("shape", [wide, nested])
def test_a_message_of_as_many_objects_as_a_report_has_is_taken_and_one_more_is_not(shape):
    QUOTA.check_announcement(announcement(shape(QUOTA.objects)))
    with pytest.raises(RefusedError, match="more than 52 objects"):
        QUOTA.check_announcement(announcement(shape(QUOTA.objects + 1)))


@pytest.mark.parametrize(
    "about",
    [
        {"reply_to_message_id": ""},  # an order to the driver
        {"dst_node_id": 9},  # or to another site
        {"src_node_id": 9},
        {"message_id": "b"},  # one message, whose objects change from time to time
    ],
)
def test_what_is_no_answer_of_the_site_that_sends_it_is_refused(about):
    QUOTA.check_announcement(announcement(tree()))
    with pytest.raises(RefusedError):
        QUOTA.check_announcement(announcement(tree(), **about))


def test_an_announcement_holds_one_message_and_nothing_but_names():
    none, two, filled, told = (announcement(tree()) for _ in range(4))
    del none.messages_list[:]
    two.messages_list.add()
    filled.messages_list[0].content.items.add()
    told.messages_list[0].error.reason = "x" * (1 << 20)
    for made in (none, two, filled, told):
        with pytest.raises(RefusedError):
            QUOTA.check_announcement(made)


def test_flower_takes_no_second_set_of_objects_for_one_answer():
    """What the bound of all that a site may leave rests on."""
    store = SqlObjectStore(":memory:")
    store.initialize()
    names = [f"{index:064x}" for index in range(3)]
    store.preregister(1, tree(names[0], tree(names[1])))
    store.preregister(1, tree(names[0], tree(names[1])))
    with pytest.raises(ValueError, match="different children"):
        store.preregister(1, tree(names[0], tree(names[2])))


def body_of(made, **changes):
    """Return one of Flower's objects with another description."""
    head, _, body = made.deflate().partition(b"\0")
    return head + b"\0" + json.dumps(json.loads(body) | changes).encode()


def test_objects_are_weighed():
    piece = Array(np.zeros(PIECE_BYTES, np.uint8))
    for part in get_all_nested_objects(ArrayRecord({"0": piece})).values():
        QUOTA.check_object(part.deflate())
    with pytest.raises(RefusedError, match="an object of"):
        QUOTA.check_object(bytes(LARGEST_OBJECT + 1))


def test_a_little_that_would_unfold_into_much_is_refused():
    piece = Array(np.zeros(8, np.uint8))
    record = ArrayRecord({"0": piece})
    message = RecordDict({"header": ConfigRecord({"a": 1}), "section.parameters": record})
    QUOTA.check_object(message.deflate())
    bombs = (
        body_of(piece, arraychunk_ids=[0, 0]),
        body_of(piece, stype="x" * 5000),
        body_of(record, **{f"{index}": piece.object_id for index in range(QUOTA.pieces + 1)}),
        body_of(message, **{f"{index}": record.object_id for index in range(5)}),
        b"Array  9\0no json",
        b"Array  9\0[]",
        b"RecordDict  9\0" + b"[" * 100_000,
    )
    for bomb in bombs:
        with pytest.raises(RefusedError):
            QUOTA.check_object(bomb)


def test_a_refusal_is_a_status_for_the_site_and_a_line_for_the_coordinator(handlers, caplog):
    guard(QUOTA.largest_report)
    assert handlers.push_messages(announcement(tree()), None).stored == STORED
    large = SimpleNamespace(object_content=bytes(LARGEST_OBJECT + 1), node=Node(node_id=NODE))
    refused = (
        (handlers.push_messages, announcement(tree(), dst_node_id=9)),
        (handlers.push_object, large),
    )
    for handler, request in refused:
        with pytest.raises(Exception, match="E_DISK") as error:
            handler(request, None)
        assert error.value.status_code == 413
    assert "E_DISK: connection 7 would send a message that answers none" in caplog.text


@pytest.mark.usefixtures("handlers")
def test_everything_that_is_to_be_replaced_is():
    before = [getattr(importlib.import_module(place), name) for place, name in REPLACED]
    guard(1)
    after = [getattr(importlib.import_module(place), name) for place, name in REPLACED]
    assert all(old is not new for old, new in zip(before, after, strict=True))
    assert after[-2] == PAUSE_S


@pytest.mark.usefixtures("handlers")
def test_requests_wait_for_a_locked_database_longer_than_flower_lets_them(tmp_path):
    def patience_ms():
        store = SqlObjectStore(str(tmp_path / "superlink.db"))
        store.initialize()
        with store.session() as session:
            return session.execute(text("PRAGMA busy_timeout")).scalar(), session.execute(
                text("PRAGMA journal_mode")
            ).scalar()

    assert patience_ms() == (5000, "wal")  # Flower's own: else nothing is to be mended
    guard(1)
    assert patience_ms() == (LOCK_MS, "wal")


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("place", "missing"), REPLACED)
def test_a_flower_with_another_inside_starts_nothing(monkeypatch, place, missing):
    monkeypatch.delattr(importlib.import_module(place), missing)
    with pytest.raises(GuardError, match=missing):
        guard(1)


def test_flower_still_asks_the_guarded_names():
    """What the guard rests on, in the source of the pinned version."""
    router = importlib.import_module("flwr.superlink.routers.fleet.router")
    assert "fleet_handlers.push_messages(" in inspect.getsource(router.fleet_push_messages)
    assert "fleet_handlers.push_object(" in inspect.getsource(router.fleet_push_object)


def reply_with(records):
    """Return the answer of a site's connection, as Flower's own code makes it, and its objects."""
    asked = Message(RecordDict(), dst_node_id=NODE, message_type="train")
    asked.metadata.__dict__["_message_id"] = "asked"
    asked.metadata.__dict__["_src_node_id"] = SERVER
    reply = Message(records, reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    reply.metadata.__dict__["_src_node_id"] = NODE
    reply.metadata.__dict__["_dst_node_id"] = SERVER
    announced = message_to_proto(
        importlib.import_module("flwr.app.message").remove_content_from_message(reply)
    )
    request = PushMessagesRequest(
        node=Node(node_id=NODE), messages_list=[announced], message_object_trees=[get_object_tree(reply)]
    )
    return request, get_all_nested_objects(reply).values()


@pytest.mark.parametrize("channels", [8, 96])
@pytest.mark.usefixtures("flower_process")
def test_every_answer_of_a_study_s_site_is_taken(tmp_path, channels):
    study = small_study(("a",), codec__model__channels=channels)
    quota = Quota(largest_message(study))
    site = make_site("a", write_volumes(tmp_path / "data", 3, 1), tmp_path / "state", study)
    state = initial_state(study)
    later = start_diffusion(state, study)
    orders = (
        TrainOrder(study.digest, "a", Stage.CODEC, 1, state.codec),
        TrainOrder(study.digest, "a", Stage.DIFFUSION, 1, later.denoiser, later.frozen_digest, later.frozen),
    )
    reports = [*map(site.execute, orders), FailureReport("a", ErrorCode.DATA)]
    for report in reports:
        request, parts = reply_with(packet_to_records(report_to_packet(report, "0" * 64)))
        quota.check_announcement(request)
        for part in parts:
            quota.check_object(part.deflate())


def test_the_server_is_started_with_the_quota_of_its_study(tmp_path):
    study = small_study(("a", "b"))
    coordinator = SimpleNamespace(folder=tmp_path, study=study)
    words = superlink(coordinator, 8000).words
    assert words[1:4] == ("-m", "deploy.guarded_superlink", str(largest_message(study)))
