"""JSON files that tell who wrote them: the text of a model, and the seal of a key on that very text.

    {"content": "{...}", "seal": "base64", ...}

What lies beside the two is not sealed.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from common.artifact import write_text_atomic
from common.errors import SealError
from common.frozen import FrozenModel, Model
from common.seal import PublicSealKey, SealKey

CONTENT, SEAL = "content", "seal"


@dataclass(frozen=True)
class SealedRecord:
    """One file's content.

    Attributes:
        content: JSON text of a model.
        seal: Signature over its bytes.
        beside: Further entries, which nobody vouches for.
    """

    content: str
    seal: bytes
    beside: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, purpose: str, content: FrozenModel, key: SealKey) -> "SealedRecord":
        """Return a record of ``content``, sealed for ``purpose``."""
        text = json.dumps(content.model_dump(mode="json"), sort_keys=True)
        return cls(text, key.sign(purpose, text.encode()))

    @classmethod
    def read(cls, path: Path) -> "SealedRecord":
        """Return the record in a file; nothing of it is verified.

        Raises:
            SealError: It is no such file.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(value, str) for value in entries.values()):
                raise ValueError
            seal = base64.b64decode(entries.pop(SEAL), validate=True)
            return cls(entries.pop(CONTENT), seal, entries)
        except OSError as error:
            raise SealError(f"{path}: {error.strerror}", "check the path") from None
        except (ValueError, KeyError, AttributeError):
            raise SealError(f"{path} is no sealed record", "ask for it again from whoever wrote it") from None

    def write(self, path: Path) -> None:
        """Write the record into a file."""
        entries = {CONTENT: self.content, SEAL: base64.b64encode(self.seal).decode(), **self.beside}
        write_text_atomic(path, json.dumps(entries, indent=1) + "\n")

    def unverified(self, kind: type[Model]) -> Model:
        """Return what the record says, whoever wrote it.

        Raises:
            SealError: It says something of another kind.
        """
        try:
            return kind.model_validate_json(self.content)
        except ValidationError:
            raise SealError(
                f"a record holds no {kind.__name__} of this release", "compare fedvox versions"
            ) from None

    def verified(self, purpose: str, kind: type[Model], key: PublicSealKey) -> Model:
        """Return what the record says.

        Raises:
            SealError: It was not sealed by ``key`` for ``purpose``, or says something of another kind.
        """
        key.verify(purpose, self.content.encode(), self.seal)
        return self.unverified(kind)
