"""Flower's SuperLink with a quota: what a site answers has a report's size and shape, or is refused.

Its uploads outlive a line that breaks: `superlink_uploads` says how.

    python -m deploy.guarded_superlink LARGEST-REPORT FLOWER-SUPERLINK-ARGUMENTS...

Flower 1.41 stores whatever a connected site announces and sends, and gives it to the study's driver in one
go, which unfolds it before fedvox sees a byte. A site in somebody else's hands could fill the disk, speak in
another's name, or send a little that unfolds into more than the driver's memory. So what is announced is
looked at and counted, and what is sent is weighed, before it is stored. That takes names that are not
Flower's public interface: the version is pinned, tests cover them, and if one is missing nothing starts.
"""

import contextlib
import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from common.errors import ErrorCode
from common.federation.wire import PIECE_BYTES
from deploy.guarded_supernode import GuardError
from deploy.superlink_uploads import (
    PAUSE_S,
    Handler,
    Uploads,
    anew,
    in_turn,
    repeatable,
    whole,
    without_waiting,
)

logger = logging.getLogger("fedvox.superlink")

SERVER_NODE = 1  # Flower's number for the driver
LARGEST_OBJECT = PIECE_BYTES + (4 << 10)  # a piece of a section and what Flower puts around it; or a header
LARGEST_ARRAY = 4 << 10  # an array's description; its content is an object of its own
OBJECTS_PER_PIECE = 2
BESIDE = 16  # objects of a message that belong to no piece: records, header
MOST_RECORDS = 4  # in a message: the header, and its sections
_BYTES_PER_OBJECT, _BYTES_OF_MESSAGE = 160, 16 << 10  # of an announcement
_TOO_LARGE = 413
_TIMEOUT = "busy_timeout"
_FLEET = "flwr.superlink.servicer.fleet.fleet_handlers"
_FOR_DRIVER = "flwr.superlink.servicer.runtime.runtime_handlers"
LOCK_MS = 25_000  # that a request waits for the database: less than Flower's clients wait for the request


class RefusedError(Exception):
    """What a site announces or sends is no report of the study."""


@dataclass(frozen=True)
class Quota:
    """What one answer may be.

    Attributes:
        largest_report: Bytes of the sections of the study's largest report.
    """

    largest_report: int

    @property
    def pieces(self) -> int:
        """Pieces that sections of so many bytes are cut into, and some to spare."""
        return -(-self.largest_report // PIECE_BYTES) + BESIDE

    @property
    def objects(self) -> int:
        """Flower's objects in a message of so many pieces."""
        return OBJECTS_PER_PIECE * self.pieces

    def check_announcement(self, request: Any) -> None:
        """Return if a site may announce this: one answer, in its own name, and no larger than a report.

        A message that answers nothing would be an order to the driver or to another site. Flower takes one
        answer to a message, and the same again only with the same objects, so all that a site may leave is
        bounded by what it was asked.

        Raises:
            RefusedError: It may not.
        """
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise RefusedError("not one message at a time")
        if request.ByteSize() > _BYTES_OF_MESSAGE + _BYTES_PER_OBJECT * self.objects:
            raise RefusedError("an announcement with more in it than names of objects")
        (message,), (tree,) = request.messages_list, request.message_object_trees
        about = message.metadata
        if not about.reply_to_message_id or about.dst_node_id != SERVER_NODE:
            raise RefusedError("a message that answers none of the coordinator's")
        if about.src_node_id != request.node.node_id:
            raise RefusedError("a message in the name of another connection")
        if about.message_id != tree.object_id or message.content.ByteSize() > 0:
            raise RefusedError("a message that is not the objects it announces")
        if sum(1 for _ in islice(_nodes(tree), self.objects + 1)) > self.objects:
            raise RefusedError(f"a message of more than {self.objects} objects")

    def check_object(self, content: bytes) -> None:
        """Return if an object may be stored: it is no larger than a piece, and unfolds into no more.

        Flower's arrays name their chunks, and its records their arrays, as often as they like: a few
        kilobytes can stand for any number of gigabytes.

        Raises:
            RefusedError: It may not.
        """
        if len(content) > LARGEST_OBJECT:
            raise RefusedError(f"an object of {len(content)} bytes")
        kind, body = _head_and_body(content)
        if kind == "Array":
            described = _described(body)
            if len(content) > LARGEST_ARRAY or described.get("arraychunk_ids") not in ([0], []):
                raise RefusedError("an array that is not one piece")
        if kind == "ArrayRecord" and len(_described(body)) > self.pieces:
            raise RefusedError("a record of more arrays than a report has")
        if kind == "RecordDict" and len(_described(body)) > MOST_RECORDS:
            raise RefusedError("a message of more records than a report has")


def guard(largest_report: int) -> Callable[[], None]:
    """Return Flower's command, whose server takes nothing from sites but what `Quota` lets through.

    Raises:
        GuardError: A name that this rests on is missing.
    """
    quota, uploads = Quota(largest_report), Uploads()

    def weighed(announce: Handler) -> Handler:
        announce = in_turn(announce, uploads)

        def announced(request: Any, state: Any) -> Any:
            with _refusing(request):
                quota.check_announcement(request)
            return announce(request, state)

        return announced

    def weighed_by_piece(send: Handler) -> Handler:
        send = repeatable(send, uploads)

        def sent(request: Any, state: Any) -> Any:
            with _refusing(request):
                quota.check_object(request.object_content)
            return send(request, state)

        return sent

    replacements: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        (_FLEET, "push_messages", weighed),
        (_FLEET, "push_object", weighed_by_piece),
        (_FLEET, "activate_node", lambda activate: anew(activate, uploads)),
        (_FOR_DRIVER, "pull_messages", lambda hand_over: whole(hand_over, uploads)),
        (_FOR_DRIVER, "pull_object", without_waiting),
        ("flwr.supercore.corestate.sql_corestate", "OBJECT_PUSH_SESSION_TTL_SECONDS", lambda _: PAUSE_S),
        ("flwr.supercore.sql_mixin", "SQLITE_PRAGMAS", _patient),
    )
    for place, name, changed in replacements:
        module = importlib.import_module(place)
        if not hasattr(module, name):
            raise GuardError(f"{place} has no {name}: install the pinned version of flwr")
        setattr(module, name, changed(getattr(module, name)))
    found: Callable[[], None] = importlib.import_module("flwr.superlink.cli").flower_superlink
    return found


def _patient(pragmas: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return how SQLite is set up, with more than Flower's five seconds of patience.

    To throw a large report away takes a busy disk longer, and Flower takes a database that is locked for an
    error that ends its driver.
    """
    return (*((name, value) for name, value in pragmas if name != _TIMEOUT), (_TIMEOUT, str(LOCK_MS)))


@contextlib.contextmanager
def _refusing(request: Any) -> Iterator[None]:
    """Turn a refusal into HTTP's status for what is too large, and write down whose it was."""
    try:
        yield
    except RefusedError as error:
        logger.warning("%s: connection %d would send %s", ErrorCode.DISK.value, request.node.node_id, error)
        framework = importlib.import_module("fastapi")  # Flower's, which turns this into a status
        raise framework.HTTPException(_TOO_LARGE, f"{ErrorCode.DISK.value}: {error}") from None


def _nodes(tree: Any) -> Iterator[Any]:
    """Yield every node of a tree, without recursion: who sends it may nest it as deep as he likes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def _head_and_body(content: bytes) -> tuple[str, bytes]:
    """Return the kind of one of Flower's objects, and what follows its head."""
    head, _, body = content.partition(b"\x00")
    return head.split(b" ", 1)[0].decode(errors="replace"), body


def _described(body: bytes) -> dict[str, Any]:
    try:
        described = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("an object that Flower could not read") from None
    if not isinstance(described, dict):
        raise RefusedError("an object that Flower could not read")
    return described


def main() -> None:
    """Run the command."""
    largest_report, *words = sys.argv[1:]
    run = guard(int(largest_report))
    sys.argv = ["flower-superlink", *words]
    run()


if __name__ == "__main__":
    main()
