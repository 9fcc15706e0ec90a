"""What a SuperLink needs for lines that break: an upload may pause, and goes on where it stood.

Flower 1.41 takes a piece of an answer once: a piece sent again, because its receipt was lost with the line,
ends the whole upload. It gives an answer to the driver as soon as that is announced; the driver then waits
for the pieces and sees to no other site. It drops an upload that pauses for three minutes, and even a whole
answer whose site has not been heard of since. What came too late it keeps as long as the run. And what a
connection was asked before it died, nobody answers, and nobody says so. Here a piece may come again, an
answer is given to the driver when it is whole, an upload may pause as long as a site may be offline, what no
message belongs to is deleted, and a connection that starts anew says by it that it knows nothing of what was
asked before.
"""

import importlib
import threading
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, select, update

from deploy.guarded_supernode import GuardError

PAUSE_S = 600  # that an upload may pause, as long as the driver waits for a site that is offline
_BUSY = 503  # which Flower's nodes try again
_MOMENT_S = 5.0

Handler = Callable[..., Any]


class Uploads:
    """Answers on their way from sites, as Flower's database knows them.

    Raises:
        GuardError: A name that this rests on is missing.
    """

    def __init__(self) -> None:
        try:
            link = importlib.import_module("flwr.supercore.state.schema.linkstate_models")
            core = importlib.import_module("flwr.supercore.state.schema.corestate_models")
            self._asked, self._answer, self._node = link.MessageIns, link.MessageRes, link.Node
            self._upload, self._root = core.ObjectPushSession, core.ObjectPushSessionRoot
            self._pending = core.ObjectPushSessionPending
        except (ImportError, AttributeError) as error:
            raise GuardError(f"{error}: install the pinned version of flwr") from None
        self.turn = threading.Lock()  # an answer is announced before the driver asks, or after
        self._now = importlib.import_module("flwr.supercore.date").now
        self._stored = importlib.import_module("flwr.supercore.utils").uint64_to_int64

    def under_way(self, state: Any, messages: Collection[str]) -> set[str]:
        """Return which messages have answers that are announced, and may still become whole."""
        chosen = self._answer.reply_to_message_id.in_(messages)
        with state.session() as session:
            return set(session.scalars(self._unfinished(self._answer.reply_to_message_id).where(chosen)))

    def answers_to(self, state: Any, messages: Collection[str]) -> set[str]:
        """Return the names of announced answers."""
        chosen = self._answer.reply_to_message_id.in_(messages)
        with state.session() as session:
            return set(session.scalars(select(self._answer.message_id).where(chosen)))

    def greet(self, state: Any, answers: Collection[str]) -> None:
        """Count the nodes that have sent answers as online for a moment more.

        Flower asks whether a node is online before it looks for its answer.
        """
        senders = select(self._answer.src_node_id).where(self._answer.message_id.in_(answers))
        moment = self._now().timestamp() + _MOMENT_S
        with state.session() as session:
            session.execute(
                update(self._node)
                .where(self._node.node_id.in_(senders), self._node.online_until < moment)
                .values(online_until=moment)
                .execution_options(synchronize_session=False)
            )

    def forget_answers(self, state: Any, answers: Collection[str]) -> None:
        """Delete those of ``answers`` that Flower holds no message of any more, and their uploads."""
        with state.session() as session:
            held = session.scalars(
                select(self._answer.message_id).where(self._answer.message_id.in_(answers))
            )
            for answer in set(answers) - set(held):
                uploads = select(self._root.session_id).where(self._root.root_object_id == answer)
                session.execute(
                    delete(self._upload)
                    .where(self._upload.session_id.in_(uploads))
                    .execution_options(synchronize_session=False)
                )
                state.object_store.delete(answer)

    def awaits(self, state: Any, upload: str, piece: str) -> bool:
        """Return whether an upload lacks a piece."""
        with state.session() as session:
            return session.get(self._pending, (upload, piece)) is not None

    def forget(self, state: Any, node: int) -> None:
        """Give up what a node was asked and has not answered, and its answers that are not whole.

        The driver hears of it the next time that it asks.
        """
        own = self._asked.dst_node_id == self._stored(node)
        unanswered = ~exists().where(self._answer.reply_to_message_id == self._asked.message_id)
        is_whole = ~exists().where(self._root.root_object_id == self._asked.message_id)
        with state.session() as session:
            # What the driver is still sending stays: it would take it amiss.
            asked = session.scalars(
                select(self._asked.message_id).where(
                    own, self._asked.delivered_at != "", unanswered, is_whole
                )
            ).all()
            state.delete_messages(set(asked))
            for message in asked:
                state.object_store.delete(message)
            begun = self._unfinished(self._upload.session_id).where(
                self._answer.src_node_id == self._stored(node)
            )
            # Flower cleans up after an upload whose time is over, and tells the driver.
            session.execute(
                update(self._upload)
                .where(self._upload.session_id.in_(begun))
                .values(expires_at=self._now())
                .execution_options(synchronize_session=False)
            )

    def _unfinished(self, column: ColumnElement[Any]) -> Select[Any]:
        return (
            select(column)
            .select_from(self._answer)
            .join(self._root, self._root.root_object_id == self._answer.message_id)
            .join(self._upload, self._upload.session_id == self._root.session_id)
            .where(self._upload.pending_count > 0, self._upload.expires_at > self._now())
        )


def repeatable(send: Handler, uploads: Uploads) -> Handler:
    """Return ``send``, which takes a piece once more that it has, and one later that it cannot store now."""

    def sent(request: Any, state: Any) -> Any:
        taken = send(request, state)
        if taken.stored or not request.object_content:
            return taken
        if uploads.awaits(state, request.session_id, request.object_id):
            framework = importlib.import_module("fastapi")  # Flower's, which turns this into a status
            raise framework.HTTPException(_BUSY, "not stored now")
        is_there = state.object_store.get(request.object_id) == request.object_content
        return type(taken)(stored=is_there)

    return sent


def whole(hand_over: Handler, uploads: Uploads) -> Handler:
    """Return ``hand_over``, which gives the driver answers that are whole; see `in_turn`."""

    def handed_over(request: Any, state: Any, task: Any) -> Any:
        under_way = uploads.under_way(state, list(request.message_ids))
        there = [message for message in request.message_ids if message not in under_way]
        answers = uploads.answers_to(state, there)
        if answers:  # the driver asks five times a second, and whoever writes keeps the others waiting
            uploads.greet(state, answers)
        given = hand_over(type(request)(message_ids=there), state, task)
        if left := answers - {each.metadata.message_id for each in given.messages_list}:
            uploads.forget_answers(state, left)
        return given

    return in_turn(handed_over, uploads)


def in_turn(handler: Handler, uploads: Uploads) -> Handler:
    """Return ``handler``, which waits while another of these works.

    An answer that is announced between the driver's two looks, for what is under way and for what is there,
    would be handed over without its pieces.
    """

    def handled(*arguments: Any) -> Any:
        with uploads.turn:
            return handler(*arguments)

    return handled


def without_waiting(pull: Handler) -> Handler:
    """Return ``pull``, which tells the driver at once that a piece is missing: what it is given is whole."""

    def pulled(request: Any, state: Any, task: Any) -> Any:
        found = pull(request, state, task)
        return found if found.object_available else type(found)(object_found=False, object_available=False)

    return pulled


def anew(activate: Handler, uploads: Uploads) -> Handler:
    """Return ``activate``, after which nothing is awaited that the node was asked before."""

    def activated(request: Any, state: Any) -> Any:
        with state.session():  # both or nothing: who is online cannot start again
            answer = activate(request, state)
            uploads.forget(state, answer.node_id)
        return answer

    return activated
