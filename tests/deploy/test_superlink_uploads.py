"""Uploads over lines that break, on Flower's own handlers and database."""

import importlib
import inspect
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.state.schema.objectstore_models import StoredObject
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import func, select, text

from deploy.guarded_supernode import GuardError
from deploy.superlink_uploads import PAUSE_S, Uploads, anew, repeatable, whole, without_waiting
from server.flower_transport import OFFLINE_S

DRIVER, HEARTBEAT_S = 1, 30.0
LONG_OVER = "object_push_sessions SET expires_at = '2020-01-01 00:00:00+00:00'"


class Federation:
    """Flower's server with one site and one study under way.

    Args:
        folder: Of its database.
    """

    def __init__(self, folder) -> None:
        database = str(folder / "superlink.db")
        store = SqlObjectStore(database)
        store.initialize()
        self.state = SqlLinkState(database, NoOpFederationManager(), store)
        self.state.initialize()
        self.node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"key", HEARTBEAT_S)
        self.run = self.state.create_run(
            None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (task,) = self.state.get_tasks(run_ids=[self.run])
        self.state.claim_task(task.task_id)
        self.state.activate_task(task.task_id)
        self.task = SimpleNamespace(run_id=self.run)
        uploads = Uploads()
        self.send = repeatable(fleet_handlers.push_object, uploads)
        self.hand_over = whole(runtime_handlers.pull_messages, uploads)
        self._pull = without_waiting(runtime_handlers.pull_object)
        self._activate = anew(fleet_handlers.activate_node, uploads)
        self.connect()

    def connect(self) -> None:
        """Let the site's connection start."""
        self.state.deactivate_node(self.node)
        self.activate()

    def activate(self) -> None:
        """Let the server take the site's connection for online."""
        self._activate(ActivateNodeRequest(public_key=b"key", heartbeat_interval=HEARTBEAT_S), self.state)

    def ask(self) -> Message:
        """Let the driver ask the site something."""
        asked, pieces = self.begin_to_ask()
        assert all(pieces())
        return asked

    def begin_to_ask(self):
        """Let the driver announce what it asks; return that, and what sends its pieces."""
        asked = Message(RecordDict(), dst_node_id=self.node, message_type="train")
        about = asked.metadata.__dict__
        about |= {"_run_id": self.run, "_src_node_id": DRIVER}
        about["_message_id"] = asked.object_id
        upload = self.state.start_session(self.run)
        stored, _ = self.state.store_message_and_object_tree(asked, get_object_tree(asked), upload)
        assert stored
        parts = get_all_nested_objects(asked).items()

        def pieces():
            return [self.state.store_object(self.run, upload, name, part.deflate()) for name, part in parts]

        return asked, pieces

    def deliver(self) -> list:
        """Return what the site is given to do."""
        request = PullMessagesRequest(node=Node(node_id=self.node))
        return list(fleet_handlers.pull_messages(request, self.state, self.state.object_store).messages_list)

    def announce(self, asked: Message) -> list[PushObjectRequest]:
        """Let the site announce its answer; return its pieces."""
        records = RecordDict({name: ConfigRecord({"word": name}) for name in "abc"})
        answer = Message(records, reply_to=asked)
        about = answer.metadata.__dict__
        about |= {"_run_id": self.run, "_src_node_id": self.node, "_dst_node_id": DRIVER}
        about["_message_id"] = answer.object_id
        bare = importlib.import_module("flwr.app.message").remove_content_from_message(answer)
        announced = fleet_handlers.push_messages(
            PushMessagesRequest(
                node=Node(node_id=self.node),
                messages_list=[message_to_proto(bare)],
                message_object_trees=[get_object_tree(answer)],
            ),
            self.state,
        )
        return [
            PushObjectRequest(
                node=Node(node_id=self.node),
                run_id=self.run,
                session_id=announced.session_id,
                object_id=name,
                object_content=part.deflate(),
            )
            for name, part in get_all_nested_objects(answer).items()
            if name in announced.objects_to_push
        ]

    def stores(self, piece: PushObjectRequest) -> bool:
        """Return what the site is told when it sends a piece."""
        return self.send(piece, self.state).stored

    def heard(self, asked: Message) -> list:
        """Return what the driver is given when it asks for the answer."""
        request = PullAppMessagesRequest(message_ids=[asked.metadata.message_id])
        return list(self.hand_over(request, self.state, self.task).messages_list)

    def set_back(self, what: str) -> None:
        """Let a time have come that Flower's database holds."""
        with self.state.session() as session:
            assert session.execute(text(f"UPDATE {what}")).rowcount == 1

    def pull(self, name: str):
        """Return what the driver is given when it asks for a piece."""
        request = PullObjectRequest(node=Node(node_id=DRIVER), run_id=self.run, object_id=name)
        return self._pull(request, self.state, self.task)

    @property
    def remains(self) -> dict[str, int]:
        """What Flower keeps of objects, uploads and messages."""
        models = (StoredObject, ObjectPushSession, MessageIns, MessageRes)
        with self.state.session() as session:
            counts = {m.__tablename__: session.scalar(select(func.count()).select_from(m)) for m in models}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture(params=["small", "large"])
def federation(tmp_path, flower_process, monkeypatch, request):
    """Flower's names of nodes are drawn from 64 bits, and its database has 63 and a sign."""
    drawn = {"small": 7, "large": 2**63 + 7}[request.param]
    place = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate")
    draw = place.generate_rand_int_from_bytes

    def chosen(*words, **options):
        return drawn if "exclude" in options else draw(*words, **options)

    monkeypatch.setattr(place, "generate_rand_int_from_bytes", chosen)
    return Federation(tmp_path)


def test_a_piece_that_is_sent_again_is_no_failure_and_flower_s_own_handler_calls_it_one(federation):
    asked = federation.ask()
    first, *others = federation.announce(asked)
    assert federation.stores(first)
    assert federation.stores(first)
    assert not fleet_handlers.push_object(first, federation.state).stored  # else nothing is to be mended
    assert all(map(federation.stores, others))
    assert federation.stores(others[-1])  # the upload is over, and its receipt got lost
    (answer,) = federation.heard(asked)
    assert answer.metadata.reply_to_message_id == asked.metadata.message_id


def test_what_nobody_announced_or_what_is_not_what_it_is_called_is_not_stored(federation):
    first, second, *_ = federation.announce(federation.ask())
    strange = PushObjectRequest()
    strange.CopyFrom(first)
    strange.object_id, strange.object_content = "0" * 64, b"something"
    assert not federation.stores(strange)
    assert federation.stores(first)
    other = PushObjectRequest()
    other.CopyFrom(first)
    other.object_content = second.object_content
    assert not federation.stores(other)
    empty = PushObjectRequest()
    empty.CopyFrom(second)
    empty.object_content = b""
    assert not federation.stores(empty)


def test_a_piece_that_cannot_be_stored_now_is_to_come_again(federation, monkeypatch):
    first, *_ = federation.announce(federation.ask())

    def locked(*_):
        raise OSError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(SqlObjectStore, "put", locked)
        with pytest.raises(Exception, match="not stored now") as error:
            federation.stores(first)
    assert error.value.status_code == 503
    assert federation.stores(first)


def test_the_driver_is_given_an_answer_when_it_is_whole(federation):
    asked = federation.ask()
    *pieces, last = federation.announce(asked)
    assert pieces
    for piece in pieces:
        federation.stores(piece)
        assert federation.heard(asked) == []
    federation.stores(last)
    (answer,) = federation.heard(asked)
    assert not answer.HasField("error")


def test_a_site_whose_line_is_cut_in_an_upload_is_not_given_up(federation):
    """Flower says that such a node is gone, and drops what it has sent."""
    asked = federation.ask()
    *pieces, last = federation.announce(asked)
    all(map(federation.stores, pieces))
    federation.set_back("node SET online_until = 1")
    assert federation.heard(asked) == []
    assert federation.stores(last)  # before the next heartbeat
    (answer,) = federation.heard(asked)
    assert not answer.HasField("error")


def test_of_a_node_that_is_offline_and_has_sent_nothing_the_driver_hears_so(federation):
    asked = federation.ask()
    federation.deliver()
    federation.set_back("node SET online_until = 1")
    (answer,) = federation.heard(asked)
    assert answer.HasField("error")


@pytest.mark.parametrize("pieces", [0, 1, None])
def test_an_answer_that_comes_after_its_time_is_not_kept(federation, pieces):
    asked = federation.ask()
    federation.deliver()
    federation.state.object_store.delete(asked.metadata.message_id)  # as the node does that has received it
    all(map(federation.stores, federation.announce(asked)[:pieces]))
    federation.set_back("message_ins SET ttl = 0.0")
    if pieces is not None:
        assert federation.heard(asked) == []  # it may become whole, and nobody keeps it longer than that
        federation.set_back(LONG_OVER)
    (answer,) = federation.heard(asked)
    assert answer.HasField("error")
    federation.state.object_store.delete(answer.metadata.message_id)  # the driver has received it
    assert federation.remains == {}


def test_a_driver_that_asks_in_vain_writes_nothing(federation, monkeypatch):
    """It asks five times a second; who writes locks the database."""
    asked = federation.ask()
    federation.announce(asked)
    written = []
    for name in ("greet", "forget_answers"):
        monkeypatch.setattr(Uploads, name, lambda *words, name=name: written.append(name))
    assert federation.heard(asked) == []
    assert not written


def test_the_driver_never_waits_for_a_piece(federation):
    """A hostile site can let two answers share pieces, and one be handed over while the other is not here."""
    first, *_ = federation.announce(federation.ask())
    assert not federation.pull(first.object_id).object_found
    federation.stores(first)
    found = federation.pull(first.object_id)
    assert found.object_found
    assert found.object_content == first.object_content


def test_an_upload_that_pauses_for_too_long_is_over_and_the_driver_hears_of_it(federation):
    asked = federation.ask()
    first, *others = federation.announce(asked)
    federation.stores(first)
    federation.set_back(LONG_OVER)
    (answer,) = federation.heard(asked)
    assert not federation.pull(others[0].object_id).object_found
    assert not federation.stores(others[0])
    assert answer.metadata.reply_to_message_id == asked.metadata.message_id


def test_a_connection_that_starts_anew_owes_nothing_of_what_it_was_asked_before(federation):
    asked = federation.ask()
    assert len(federation.deliver()) == 1
    federation.connect()
    (answer,) = federation.heard(asked)
    assert answer.HasField("error")
    assert asked.metadata.message_id not in federation.state.object_store


def test_an_order_that_the_driver_is_still_sending_outlives_the_connection_it_was_given_to(federation):
    """The driver would take it amiss, and the study with it."""
    asked, pieces = federation.begin_to_ask()
    federation.deliver()
    federation.connect()
    assert all(pieces())
    assert federation.heard(asked) == []


def test_a_start_that_fails_leaves_the_node_free_to_start_again(federation, monkeypatch):
    federation.state.deactivate_node(federation.node)
    with monkeypatch.context() as patched:
        patched.setattr(Uploads, "forget", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            federation.activate()
    federation.activate()


def test_what_lies_there_for_a_connection_is_given_to_the_one_that_starts_anew(federation):
    asked = federation.ask()
    federation.connect()
    (given,) = federation.deliver()
    assert given.metadata.message_id == asked.metadata.message_id
    assert federation.heard(asked) == []


def test_a_whole_answer_outlives_its_connection(federation):
    asked = federation.ask()
    federation.deliver()
    all(map(federation.stores, federation.announce(asked)))
    federation.connect()
    (answer,) = federation.heard(asked)
    assert not answer.HasField("error")


def test_an_upload_ends_with_its_connection_and_the_driver_hears_of_it(federation):
    asked = federation.ask()
    federation.deliver()
    first, second, *_ = federation.announce(asked)
    federation.stores(first)
    federation.connect()
    (answer,) = federation.heard(asked)
    assert answer.metadata.reply_to_message_id == asked.metadata.message_id
    assert not federation.pull(second.object_id).object_found
    assert not federation.stores(second)


def test_another_site_s_uploads_go_on(federation):
    asked = federation.ask()
    federation.deliver()
    first, *others = federation.announce(asked)
    federation.stores(first)
    Uploads().forget(federation.state, federation.node + 1)
    assert all(map(federation.stores, others))
    assert len(federation.heard(asked)) == 1


def test_another_site_s_orders_stay(federation):
    asked = federation.ask()
    federation.deliver()
    Uploads().forget(federation.state, federation.node + 1)
    assert federation.heard(asked) == []
    Uploads().forget(federation.state, federation.node)
    (answer,) = federation.heard(asked)
    assert answer.HasField("error")


def test_an_upload_may_pause_longer_than_a_site_may_be_offline():
    assert PAUSE_S >= OFFLINE_S


def test_a_flower_with_another_database_starts_nothing(monkeypatch):
    models = importlib.import_module("flwr.supercore.state.schema.corestate_models")
    monkeypatch.delattr(models, "ObjectPushSessionRoot")
    with pytest.raises(GuardError, match="ObjectPushSessionRoot"):
        Uploads()


def test_flower_still_asks_the_names_that_are_replaced():
    fleet = importlib.import_module("flwr.superlink.routers.fleet.router")
    assert "fleet_handlers.activate_node(" in inspect.getsource(fleet.fleet_activate_node)
    runtime = importlib.import_module("flwr.supercore.routers.runtime.router")
    assert "handlers.pull_messages(" in inspect.getsource(runtime.pull_messages)
    assert "handlers.pull_object(" in inspect.getsource(runtime.pull_object)
    assert importlib.import_module("flwr.superlink.main")._RUNTIME_HANDLERS is runtime_handlers
    assert "seconds=OBJECT_PUSH_SESSION_TTL_SECONDS" in inspect.getsource(SqlLinkState.start_session)
