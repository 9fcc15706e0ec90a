"""Flower's SuperLink with a quota: a site puts no more on its disk than the study's largest report is.

    python -m deploy.guarded_superlink LARGEST-REPORT FLOWER-SUPERLINK-ARGUMENTS...

Flower 1.41 takes as many objects as a site announces for its one reply to a message, and gives them to the
driver in one go: a site in somebody else's hands would fill the disk, then the driver's memory. Here what is
announced is counted and what is sent is weighed before it is stored. That takes names that are not Flower's
public interface: the version is pinned, a test covers them, and if one is missing nothing starts.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from common.errors import ErrorCode
from common.federation.wire import PIECE_BYTES
from deploy.guarded_supernode import GuardError

logger = logging.getLogger("fedvox.superlink")

LARGEST_OBJECT = 2 * PIECE_BYTES  # a piece of a section and what Flower puts around it; or a header
OBJECTS_PER_PIECE = 2  # Flower's array, and its content
OBJECTS_BESIDE = 16  # message, records, header
_ANNOUNCE, _SEND = "push_messages", "push_object"
_TOO_LARGE = 413


def most_objects(largest_report: int) -> int:
    """Return how many of Flower's objects a message of so many bytes may consist of."""
    return OBJECTS_PER_PIECE * -(-largest_report // PIECE_BYTES) + OBJECTS_BESIDE


def guard(largest_report: int) -> Callable[[], None]:
    """Return Flower's command, whose server takes no message larger than ``largest_report`` bytes.

    Raises:
        GuardError: A name that this rests on is missing.
    """
    handlers = importlib.import_module("flwr.superlink.servicer.fleet.fleet_handlers")
    command = importlib.import_module("flwr.superlink.cli")
    for module, name in ((handlers, _ANNOUNCE), (handlers, _SEND), (command, "flower_superlink")):
        if not callable(getattr(module, name, None)):
            raise GuardError(f"{module.__name__} has no {name}: install the pinned version of flwr")
    announce, send = getattr(handlers, _ANNOUNCE), getattr(handlers, _SEND)
    most = most_objects(largest_report)

    def counted(request: Any, state: Any) -> Any:
        announced = sum(1 for _ in islice(_objects(request.message_object_trees), most + 1))
        if announced > most:
            raise _refusal(request.node.node_id, f"a message of more than {most} objects")
        return announce(request, state)

    def weighed(request: Any, state: Any) -> Any:
        if (size := len(request.object_content)) > LARGEST_OBJECT:
            raise _refusal(request.node.node_id, f"an object of {size} bytes")
        return send(request, state)

    setattr(handlers, _ANNOUNCE, counted)
    setattr(handlers, _SEND, weighed)
    found: Callable[[], None] = command.flower_superlink
    return found


def _objects(trees: Any) -> Iterator[Any]:
    """Yield every node of trees, without recursion: who sends them may nest them as deep as he likes."""
    waiting = list(trees)
    while waiting:
        tree = waiting.pop()
        yield tree
        waiting.extend(tree.children)


def _refusal(node: int, what: str) -> Exception:
    logger.warning("%s: connection %d would send %s", ErrorCode.DISK.value, node, what)
    framework = importlib.import_module("fastapi")  # Flower's, which turns this into a status
    said = f"{ErrorCode.DISK.value}: more than a report of the study"
    made: Exception = framework.HTTPException(_TOO_LARGE, said)
    return made


def main() -> None:
    """Run the command."""
    largest_report, *words = sys.argv[1:]
    run = guard(int(largest_report))
    sys.argv = ["flower-superlink", *words]
    run()


if __name__ == "__main__":
    main()
