"""A message as it crosses a border: a header, its seal, and sections of tensors that the header vouches for.

The seal is verified first, then what the header says, then the sections' digests; tensors are parsed last.
Between two ends of one process there is nobody to deceive, and no seal.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import WireError
from common.federation.headers import (
    Header,
    Kind,
    OrderHeader,
    ReportHeader,
    Section,
    header_from_bytes,
    header_to_bytes,
)

PARAMETERS, FROZEN = "parameters", "frozen"


@dataclass(frozen=True)
class Packet:
    """One message.

    Attributes:
        header: Bytes of a `Header`.
        seal: Signature over them; empty within a process.
        sections: Tensors in safetensors form.
    """

    header: bytes
    seal: bytes = b""
    sections: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, header: Header, sections: Mapping[str, bytes] | None = None) -> "Packet":
        """Return an unsealed packet."""
        return cls(header_to_bytes(header), b"", sections or {})

    def read(self) -> Header:
        """Return the header, after checking that the sections are those that it vouches for.

        Raises:
            WireError: The header is none, or a section is missing, unknown or altered.
        """
        header = header_from_bytes(self.header)
        described = {name: describe(content) for name, content in self.sections.items()}
        if described != sections_of(header):
            raise WireError("a message's tensors are not those of its header", "ask for it again")
        return header

    def read_as(self, kind: type[Kind]) -> Kind:
        """Return the header of a kind.

        Raises:
            WireError: It is of another, or the sections are not those that it vouches for.
        """
        return of_kind(self.read(), kind)

    @property
    def num_bytes(self) -> int:
        """Bytes of the sections, which is what travels but for some hundred bytes."""
        return sum(map(len, self.sections.values()))


def of_kind(header: Header, kind: type[Kind]) -> Kind:
    """Return ``header``, which is of ``kind``.

    Raises:
        WireError: It is of another.
    """
    if not isinstance(header, kind):
        raise WireError(f"a {header.kind} where another message belongs", "compare fedvox versions")
    return header


def sections_of(header: Header) -> dict[str, Section]:
    """Return the sections that a header vouches for, by name."""
    match header:
        case OrderHeader():
            frozen = {} if header.frozen is None else {FROZEN: header.frozen}
            return {PARAMETERS: header.parameters, **frozen}
        case ReportHeader():
            return {PARAMETERS: header.parameters}
        case _:
            return {}


def describe(content: bytes) -> Section:
    """Return what a header says of a section."""
    return Section(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
