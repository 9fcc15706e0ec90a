"""Flower's SuperNode, kept in step and with a lock: it runs no app but those whose hashes the site allows.

    python -m deploy.guarded_supernode HASH[,HASH...] FLOWER-SUPERNODE-ARGUMENTS...

Flower 1.41 can verify apps by signatures of its hub alone, so its verification is replaced. And it sends one
answer for every message that it takes, whichever that is: after one that belongs to no message at hand, such
as the failure of a courier whose run was over, every answer would wait for the next message, for ever. And it
waits for ever for the rest of an answer whose courier has died. All this takes names that are not its public
interface: the version is pinned, tests cover them, and if one is missing nothing starts.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

_CONNECTION, _VERIFY, _START = "http_request_response", "_verify_fab", "start_client_internal"
_ANSWER = "_push_messages"
_RECEIVE, _SEND, _GET_FAB = 1, 2, 4  # of what the connection yields
ARRIVAL_S = 60.0  # that a piece of an answer may take from the courier beside us

logger = logging.getLogger("fedvox.supernode")


class GuardError(RuntimeError):
    """Flower is not the version whose inside is known here."""


def guard(allowed: Collection[str]) -> Callable[[], None]:
    """Return Flower's command, which runs an app only if its SHA-256 is among ``allowed``.

    Raises:
        GuardError: A name that this rests on is missing.
    """
    inside = importlib.import_module("flwr.supernode.start_client_internal")
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    for module, name in (
        (inside, _CONNECTION),
        (inside, _VERIFY),
        (inside, _ANSWER),
        (command, _START),
        (command, "flower_supernode"),
    ):
        if not callable(getattr(module, name, None)):
            raise GuardError(f"{module.__name__} has no {name}: install the pinned version of flwr")
    connect, start = getattr(inside, _CONNECTION), getattr(command, _START)
    steps = _InStep()

    @contextlib.contextmanager
    def connection(*words: Any, **options: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*words, **options) as opened:
            parts = list(opened)
            get_fab = parts[_GET_FAB]

            def marked(fab_hash: str, run_id: int) -> Any:
                fab = get_fab(fab_hash, run_id)
                # Without this mark Flower refuses before it asks `verified`.
                return dataclasses.replace(fab, verifications={**fab.verifications, "valid_license": "site"})

            parts[_GET_FAB] = marked
            parts[_RECEIVE], parts[_SEND] = steps.receiving(parts[_RECEIVE]), steps.sending(parts[_SEND])
            yield tuple(parts)

    def verified(fab: Any, entities: Any) -> bool:  # noqa: ARG001
        return hashlib.sha256(fab.content).hexdigest() in allowed

    setattr(inside, _CONNECTION, connection)
    setattr(inside, _VERIFY, verified)
    setattr(inside, _ANSWER, steps.answering(getattr(inside, _ANSWER)))

    def started(**options: Any) -> None:
        start(**{**options, "trusted_entities": {"site": "allow-list"}})
        logger.error("the connection has ended; whoever started it starts it again")
        # A thread of Flower's keeps the process, which does nothing any more.
        os._exit(1)

    setattr(command, _START, started)
    found: Callable[[], None] = command.flower_supernode
    return found


class _Arriving:
    """A store of objects, of which nothing is awaited for longer than `ARRIVAL_S`.

    Args:
        store: Flower's, which has nothing for what was announced and has not come.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._awaited: dict[str, float] = {}

    def get(self, name: str) -> Any:
        """Return an object, or nothing yet.

        Raises:
            TimeoutError: It does not come any more.
        """
        content = self._store.get(name)
        if content == b"" and time.monotonic() > self._awaited.setdefault(name, time.monotonic()) + ARRIVAL_S:
            raise TimeoutError("the courier sent a part of its answer and no more")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _InStep:
    """Lets no message be received before the last one is answered, whatever else is sent meanwhile."""

    def __init__(self) -> None:
        self._unanswered = ""

    def receiving(self, receive: Callable[[], Any]) -> Callable[[], Any]:
        """Return ``receive``, which notes what is to be answered."""

        def received() -> Any:
            found = receive()
            if found is not None:
                self._unanswered = found[0].metadata.message_id
            return found

        return received

    def sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``send``, which notes what was answered; Flower tries each answer once."""

        def sent(message: Any, *rest: Any) -> Any:
            if message.metadata.reply_to_message_id == self._unanswered:
                self._unanswered = ""
            return send(message, *rest)

        return sent

    def answering(self, send_what_is_there: Callable[..., None]) -> Callable[..., None]:
        """Return Flower's wait for an answer, which ends with the right one."""

        def answered(*, object_store: Any, **options: Any) -> None:
            arriving = _Arriving(object_store)
            send_what_is_there(object_store=arriving, **options)
            while self._unanswered:
                send_what_is_there(object_store=arriving, **options)

        return answered


def main() -> None:
    """Run the command."""
    allowed, *words = sys.argv[1:]
    run = guard(frozenset(allowed.split(",")))
    sys.argv = ["flower-supernode", *words]
    run()


if __name__ == "__main__":
    main()
