"""Packets in Flower's messages."""

from flwr.app import Message

from common.errors import FedvoxError
from common.federation.packet import Packet
from common.federation.wire import packet_from_records, packet_to_records


def make_message(packet: Packet, kind: str, node: int, patience_s: float) -> Message:
    """Return a Flower message that is not delivered after ``patience_s`` seconds."""
    return Message(packet_to_records(packet), dst_node_id=node, message_type=kind, ttl=max(1.0, patience_s))


def packet_in(reply: Message) -> Packet | None:
    """Return the packet in a reply, or None if there is none."""
    if reply.has_error():
        return None
    try:
        return packet_from_records(reply.content)
    except FedvoxError:
        return None
