"""Sealed packets: signed by whom they are from, for what they are."""

import dataclasses

from common.federation.headers import Header, header_from_bytes, kind_of
from common.federation.packet import Packet
from common.seal import PublicSealKey, SealKey


def sealed(packet: Packet, key: SealKey) -> Packet:
    """Return ``packet`` with the seal of ``key``."""
    return dataclasses.replace(packet, seal=key.sign(kind_of(packet.header), packet.header))


def verified_header(header: bytes, seal: bytes, key: PublicSealKey) -> Header:
    """Return a header that ``key`` sealed; of the sections nothing is known yet.

    Raises:
        WireError: It is no header.
        SealError: It is sealed by somebody else, or for something else.
    """
    key.verify(kind_of(header), header, seal)
    return header_from_bytes(header)
