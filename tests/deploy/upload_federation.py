"""Flower's server with one site and one study under way, on its own handlers and database."""

import importlib
from types import SimpleNamespace

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

from deploy.superlink_uploads import Uploads, anew, in_turn, repeatable, whole, without_waiting

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
        self._announce = in_turn(fleet_handlers.push_messages, uploads)
        self.uploads = uploads
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
        announced = self._announce(
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
