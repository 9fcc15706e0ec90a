"""Flower's SuperNode with a lock: it runs no app but those whose hashes the site has allowed.

    python -m deploy.guarded_supernode HASH[,HASH...] FLOWER-SUPERNODE-ARGUMENTS...

Flower 1.41 can verify apps by signatures of its hub alone, so its verification is replaced. That takes names
that are not its public interface: the version is pinned, a test covers them, and if one is missing nothing
starts.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

_CONNECTION, _VERIFY, _START = "http_request_response", "_verify_fab", "start_client_internal"
_GET_FAB = 4  # of what the connection yields


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
        (command, _START),
        (command, "flower_supernode"),
    ):
        if not callable(getattr(module, name, None)):
            raise GuardError(f"{module.__name__} has no {name}: install the pinned version of flwr")
    connect, start = getattr(inside, _CONNECTION), getattr(command, _START)

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
            yield tuple(parts)

    def verified(fab: Any, entities: Any) -> bool:  # noqa: ARG001
        return hashlib.sha256(fab.content).hexdigest() in allowed

    setattr(inside, _CONNECTION, connection)
    setattr(inside, _VERIFY, verified)
    setattr(
        command, _START, lambda **options: start(**{**options, "trusted_entities": {"site": "allow-list"}})
    )
    found: Callable[[], None] = command.flower_supernode
    return found


def main() -> None:
    """Run the command."""
    allowed, *words = sys.argv[1:]
    run = guard(frozenset(allowed.split(",")))
    sys.argv = ["flower-supernode", *words]
    run()


if __name__ == "__main__":
    main()
