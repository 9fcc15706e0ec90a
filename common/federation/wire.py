"""Packets as Flower records, and back: the only place that knows both forms.

A section travels in pieces of 1 MiB, which are objects of their own to Flower: after a cut, those that
arrived are not sent again.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import WireError
from common.federation.packet import Packet

PIECE_BYTES = 1 << 20
_ENVELOPE = "envelope"


def packet_to_records(packet: Packet) -> RecordDict:
    """Return ``packet`` as Flower records."""
    envelope = ConfigRecord({"header": packet.header, "seal": packet.seal})
    pieces = {f"section.{name}": _to_pieces(content) for name, content in packet.sections.items()}
    return RecordDict({_ENVELOPE: envelope, **pieces})


def packet_from_records(records: RecordDict) -> Packet:
    """Return the packet in ``records``.

    Raises:
        WireError: A field is missing or of the wrong kind.
    """
    try:
        envelope = records.config_records[_ENVELOPE]
        sections = {
            name.removeprefix("section."): _from_pieces(record)
            for name, record in records.array_records.items()
        }
        return Packet(_bytes(envelope["header"]), _bytes(envelope["seal"]), sections)
    except Exception as error:  # arrays that are not arrays fail in ways that are not ours to list
        raise WireError(f"not a message: {error}", "compare fedvox versions of server and site") from None


def _to_pieces(content: bytes) -> ArrayRecord:
    pieces = {}
    for start in range(0, len(content), PIECE_BYTES):
        piece = np.frombuffer(content[start : start + PIECE_BYTES], dtype=np.uint8)
        pieces[f"{start // PIECE_BYTES:08d}"] = Array(piece)
    return ArrayRecord(pieces)


def _from_pieces(record: ArrayRecord) -> bytes:
    pieces = [record[name].numpy() for name in sorted(record)]
    if any(piece.dtype != np.uint8 for piece in pieces):
        raise TypeError("a piece is not of bytes")
    return b"".join(piece.tobytes() for piece in pieces)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value
