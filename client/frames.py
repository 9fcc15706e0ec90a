"""Packets as frames: what courier and agent say to each other over the socket, in both directions.

The first frame is the envelope, JSON with header, seal and the size of each section; then the sections
follow in its order, in frames of at most 1 MiB. No torch here: the courier starts anew for every message.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from common.errors import WireError
from common.federation.packet import FROZEN, PARAMETERS, Packet

FRAME_BYTES = 1 << 20
LARGEST_ENVELOPE = 1 << 16
CHANNEL = (("grpc.max_receive_message_length", FRAME_BYTES + LARGEST_ENVELOPE),)
METHOD = "/fedvox.Agent/Answer"
HELLO = "/fedvox.Agent/Hello"


@dataclass(frozen=True)
class Envelope:
    """What comes first.

    Attributes:
        header: Bytes of the packet's header.
        seal: Its seal.
        sizes: Bytes of each section, in the order they follow in.
    """

    header: bytes
    seal: bytes
    sizes: Mapping[str, int]

    def to_bytes(self) -> bytes:
        """Return the envelope as a frame."""
        content = {
            "header": base64.b64encode(self.header).decode(),
            "seal": base64.b64encode(self.seal).decode(),
            "sizes": dict(self.sizes),
        }
        return json.dumps(content).encode()

    @classmethod
    def from_bytes(cls, frame: bytes) -> "Envelope":
        """Return the envelope in a frame.

        Raises:
            WireError: It is none.
        """
        try:
            if len(frame) > LARGEST_ENVELOPE:
                raise ValueError
            content = json.loads(frame)
            sizes = {name: content["sizes"][name] for name in content["sizes"]}
            if not all(isinstance(size, int) and size >= 0 for size in sizes.values()):
                raise ValueError
            if not sizes.keys() <= {PARAMETERS, FROZEN}:
                raise ValueError
            header, seal = (base64.b64decode(content[key], validate=True) for key in ("header", "seal"))
            return cls(header, seal, sizes)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise WireError("not an envelope", "compare fedvox versions of courier and agent") from None


def to_frames(packet: Packet) -> Iterator[bytes]:
    """Yield the frames of a packet."""
    sizes = {name: len(content) for name, content in packet.sections.items()}
    yield Envelope(packet.header, packet.seal, sizes).to_bytes()
    for content in packet.sections.values():
        for start in range(0, len(content), FRAME_BYTES):
            yield content[start : start + FRAME_BYTES]


def section_frames(frames: Iterable[bytes], sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield each frame after the envelope with the name of its section.

    Raises:
        WireError: More or fewer bytes came than the envelope says.
    """
    source = iter(frames)
    for name, size in sizes.items():
        left = size
        while left:
            frame = next(source, b"")
            if not 0 < len(frame) <= min(left, FRAME_BYTES):
                raise WireError("a section is cut off, or longer than it says", "send it again")
            left -= len(frame)
            yield name, frame
    if next(source, None) is not None:
        raise WireError("more bytes than the envelope says", "send it again")


def from_frames(frames: Iterable[bytes]) -> Packet:
    """Return the packet in ``frames``, held in memory.

    Raises:
        WireError: They are no packet.
    """
    source = iter(frames)
    envelope = Envelope.from_bytes(next(source, b""))
    parts: dict[str, list[bytes]] = {name: [] for name in envelope.sizes}
    for name, frame in section_frames(source, envelope.sizes):
        parts[name].append(frame)
    return Packet(envelope.header, envelope.seal, {name: b"".join(part) for name, part in parts.items()})
