"""Whether packets come from whom they should: the coordinator's own seal, and the sites' known keys."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from common.errors import SealError
from common.federation.packet import Packet
from common.federation.sealing import sealed, verified_header
from common.seal import PublicSealKey, SealKey


class Seals(Protocol):
    """Seals what goes out, and tells whether a site sealed what came in."""

    def sealed(self, packet: Packet) -> Packet:
        """Return ``packet`` as it may go out."""
        ...

    def refuse_unsealed(self, packet: Packet, site: str) -> None:
        """Return if ``packet`` is by ``site``.

        Raises:
            SealError: It is not.
            WireError: It is no packet.
        """
        ...

    def known_among(self, sites: Collection[str]) -> set[str]:
        """Return those of ``sites`` of which anything may count."""
        ...


class NoSeals:
    """For a simulation, whose ends are one process family on one machine: there is nobody to deceive."""

    def sealed(self, packet: Packet) -> Packet:
        """Return ``packet`` as it is."""
        return packet

    def refuse_unsealed(self, packet: Packet, site: str) -> None:
        """Return."""

    def known_among(self, sites: Collection[str]) -> set[str]:
        """Return all."""
        return set(sites)


@dataclass(frozen=True)
class StudySeals:
    """The keys of one study.

    Attributes:
        key: The coordinator's, which the sites have approved.
        known: Says the public keys of the sites; asked every time, for one may be revoked meanwhile.
    """

    key: SealKey
    known: Callable[[], Mapping[str, PublicSealKey]]

    def sealed(self, packet: Packet) -> Packet:
        """Return ``packet`` with the coordinator's seal."""
        return sealed(packet, self.key)

    def refuse_unsealed(self, packet: Packet, site: str) -> None:
        """Return if ``packet`` is by ``site``.

        Raises:
            SealError: It is not, or the site is not enrolled.
            WireError: It is no packet.
        """
        keys = self.known()
        if site not in keys:
            raise SealError(f"site {site} is not enrolled, or was revoked", "fedvox provision show")
        verified_header(packet.header, packet.seal, keys[site])

    def known_among(self, sites: Collection[str]) -> set[str]:
        """Return those of ``sites`` that are enrolled, and not revoked."""
        return set(sites) & self.known().keys()
