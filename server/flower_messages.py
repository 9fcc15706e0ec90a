"""Packets in Flower's messages."""

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import FedvoxError
from common.federation.packet import Packet
from common.federation.wire import packet_from_records, packet_to_records

# What Flower raises when it unfolds a message that is none; a server that does not answer is not among them.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError)


def make_message(packet: Packet, kind: str, node: int, patience_s: float) -> Message:
    """Return a Flower message that is not delivered after ``patience_s`` seconds."""
    return Message(packet_to_records(packet), dst_node_id=node, message_type=kind, ttl=max(1.0, patience_s))


def sent(grid: Grid, message: Message) -> str | None:
    """Return Flower's name of a message that is on its way, or None if its parts were not taken.

    A site may say that it has received what is still being sent; Flower then throws that away.
    """
    try:
        (name,) = grid.push_messages([message])
    except ObjectPushError:
        return None
    return name or None


def fetched(grid: Grid, message: str) -> tuple[bool, Packet | None]:
    """Return whether a message was answered, and the packet in the answer, if that is one.

    What the answer says of itself is its sender's own word and is not asked: which message it answers, Flower
    knows.

    Args:
        grid: Flower's grid.
        message: Flower's name of the message.
    """
    try:
        replies = list(grid.pull_messages([message]))
    except _UNREADABLE:
        return True, None
    return bool(replies), _packet_in(replies[0]) if replies else None


def _packet_in(reply: Message) -> Packet | None:
    """Return the packet in a reply, or None if there is none: Flower's own failures carry free text."""
    if reply.has_error():
        return None
    try:
        return packet_from_records(reply.content)
    except FedvoxError:
        return None
