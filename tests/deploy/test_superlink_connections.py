"""What becomes of uploads and orders when a site's connection starts anew."""

import pytest

from deploy.superlink_uploads import Uploads


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
