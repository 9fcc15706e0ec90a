"""Uploads over lines that break, on Flower's own handlers and database."""

import importlib
import inspect
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from upload_federation import LONG_OVER

from deploy.guarded_supernode import GuardError
from deploy.superlink_uploads import PAUSE_S, Uploads
from server.flower_transport import OFFLINE_S


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


def test_an_answer_that_is_announced_between_the_driver_s_two_looks_is_given_when_it_is_whole(
    federation, monkeypatch
):
    """Else it is handed over without its pieces, and lost: seen once in some hundred rounds."""
    asked = federation.ask()
    federation.deliver()
    look, announcing = federation.uploads.answers_to, []

    def looked(*arguments):
        found = look(*arguments)
        if not announcing:
            announcing.append(pool.submit(federation.announce, asked))
            wait(announcing, timeout=1)
        return found

    monkeypatch.setattr(federation.uploads, "answers_to", looked)
    with ThreadPoolExecutor(1) as pool:
        assert federation.heard(asked) == []
        pieces = announcing[0].result()
    assert federation.heard(asked) == []
    assert all(map(federation.stores, pieces))
    (answer,) = federation.heard(asked)
    assert not answer.HasField("error")
    assert all(federation.pull(piece.object_id).object_available for piece in pieces)


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
