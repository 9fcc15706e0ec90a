"""What a site's connection runs, and that each message gets its own answer."""

import dataclasses
import hashlib
import importlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from deploy import guarded_supernode
from deploy.guarded_supernode import GuardError, guard


@dataclasses.dataclass(frozen=True)
class Fab:
    content: bytes
    verifications: dict


@pytest.fixture
def flower(monkeypatch):
    """Flower's modules with a connection that hands out whatever the test asks for."""
    inside = importlib.import_module("flwr.supernode.start_client_internal")
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    started, received, ended = {}, [], []
    monkeypatch.setattr(os, "_exit", ended.append)

    class Connection:
        def __enter__(self):
            get_fab = lambda fab_hash, run_id: Fab(b"app", {})  # noqa: E731
            return (1, received.pop, lambda *words: (set(), ""), None, get_fab, None, None, None)

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(inside, "http_request_response", lambda *words, **options: Connection())
    monkeypatch.setattr(inside, "_verify_fab", inside._verify_fab)
    monkeypatch.setattr(inside, "_push_messages", inside._push_messages)
    monkeypatch.setattr(command, "start_client_internal", lambda **options: started.update(options))
    return SimpleNamespace(inside=inside, command=command, started=started, received=received, ended=ended)


def test_an_app_whose_hash_is_not_allowed_is_not_run(flower):
    guard({hashlib.sha256(b"app").hexdigest()})
    with flower.inside.http_request_response() as opened:
        fab = opened[4]("hash", 7)
    assert fab.verifications["valid_license"]  # Flower asks for it before it asks whether the app is verified
    assert flower.inside._verify_fab(fab, {"site": "allow-list"})
    assert not flower.inside._verify_fab(Fab(b"app changed", fab.verifications), {"site": "allow-list"})
    flower.command.start_client_internal(trusted_entities=None)
    assert flower.started["trusted_entities"]  # or Flower would verify nothing
    assert flower.ended == [1]  # Flower only returns, and its threads would keep the process


def asked(run_id):
    """Return a message of a run, as Flower gives it to a node, and that again as the node stores it."""
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__.update(_run_id=run_id, _message_id=f"order of run {run_id}")
    return message, get_object_tree(message)


@pytest.mark.usefixtures("flower_process")
def test_an_answer_that_nobody_waits_for_is_not_taken_for_the_one_that_is_due(flower):
    """A courier's failure may come when its run is over: Flower then stays one answer behind for ever."""
    guard({"x"})
    store = InMemoryObjectStore()
    state = InMemoryNodeState(store)
    (old, _), (new, tree) = asked(1), asked(2)
    flower.received.append((new, tree))
    with flower.inside.http_request_response() as (_, receive, send, *_):
        receive()
        sent = []

        def noting(message, *rest):
            sent.append(message.metadata.reply_to_message_id)
            return send(message, *rest)

        def answer(message):
            reply = Message(RecordDict(), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            store.preregister(1, get_object_tree(reply))
            state.store_message(reply)

        answer(old)
        later = threading.Timer(0.3, answer, (new,))
        later.start()
        flower.inside._push_messages(
            state=state, object_store=store, send=noting, push_object=lambda *words: None
        )
        later.join()
    assert sent == ["order of run 1", "order of run 2"]


@pytest.mark.usefixtures("flower_process")
@pytest.mark.parametrize("arrived", [0, 1])
def test_an_answer_whose_courier_died_while_it_sent_it_is_not_awaited_for_ever(flower, monkeypatch, arrived):
    """The next question then finds a connection that listens; the agent still has the answer."""
    monkeypatch.setattr(guarded_supernode, "ARRIVAL_S", 0.2)
    guard({"x"})
    store = InMemoryObjectStore()
    state = InMemoryNodeState(store)
    message, tree = asked(1)
    flower.received.append((message, tree))
    reply = Message(RecordDict({"a": ConfigRecord({"word": "a"})}), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    announced = store.preregister(1, get_object_tree(reply))
    parts = get_all_nested_objects(reply)
    for name in announced[:arrived]:
        store.put(name, parts[name].deflate())
    state.store_message(reply)
    pushed = []
    with flower.inside.http_request_response() as (_, receive, send, *_):
        receive()

        def announcing(*words):
            send(*words)
            return set(announced), "upload"

        words = {
            "state": state,
            "object_store": store,
            "send": announcing,
            "push_object": lambda run, upload, name, content: pushed.append(name),
        }
        sending = threading.Thread(target=flower.inside._push_messages, kwargs=words, daemon=True)
        sending.start()
        sending.join(20)
    assert not sending.is_alive()
    assert pushed == announced[:arrived]
    assert not state.get_messages_legacy(is_reply=True)
    assert not any(name in store for name in announced)


@pytest.mark.parametrize("missing", ["http_request_response", "_verify_fab", "_push_messages"])
def test_a_flower_with_another_inside_starts_nothing(flower, monkeypatch, missing):
    monkeypatch.delattr(flower.inside, missing)
    with pytest.raises(GuardError, match=missing):
        guard({"x"})


def test_flower_still_asks_for_verification_before_it_runs_anything():
    """What the guard rests on, in the source of the pinned version."""
    source = Path(importlib.import_module("flwr.supernode.start_client_internal").__file__).read_text()
    asked, stored = source.index("_verify_fab(fab, trusted_entities)"), source.index("state.store_fab(")
    assert asked < stored
