"""Ed25519 seals: who wrote a message is told before a byte of what it says is read.

>>> key = SealKey.generate()
>>> signature = key.sign("order", b"train")
>>> key.public.verify("order", b"train", signature)
>>> key.public.verify("report", b"train", signature)  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
common.errors.SealError: the seal of a report is not by key ... (ask who sent it; nothing of it was read)
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.artifact import PRIVATE_FILE, flush_folder
from common.errors import ConfigError, SealError

_OTHERS = 0o077
_PUBLIC_BYTES = 32


@dataclass(frozen=True)
class PublicSealKey:
    """Tells whether its owner wrote something.

    Attributes:
        raw: The 32 bytes of the key.
    """

    raw: bytes

    @classmethod
    def from_text(cls, text: str) -> "PublicSealKey":
        """Return the key that `text` wrote.

        Raises:
            ConfigError: It is no such key.
        """
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            raw = b""
        if len(raw) != _PUBLIC_BYTES:
            raise ConfigError("a public key is 44 characters of base64", "copy it again from its owner")
        return cls(raw)

    @property
    def text(self) -> str:
        """The key as 44 characters."""
        return base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key in hexadecimal: what two people compare by telephone."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, purpose: str, content: bytes, signature: bytes) -> None:
        """Return if this key's owner signed ``content`` for ``purpose``.

        Raises:
            SealError: They did not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _sealed(purpose, content))
        except (InvalidSignature, ValueError):
            raise SealError(
                f"the seal of a {purpose} is not by key {self.fingerprint[:16]}...",
                "ask who sent it; nothing of it was read",
            ) from None


class SealKey:
    """Signs; it never leaves the machine where it was made.

    Args:
        key: The private key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SealKey":
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> "SealKey":
        """Return the key in a file.

        Raises:
            ConfigError: There is none, it is not such a key, or others may read it.
        """
        try:
            if path.stat().st_mode & _OTHERS:
                raise ConfigError(f"{path} can be read by others", f"chmod 600 {path}, or make a new key")
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", "check the path and who owns the file") from None
        except ValueError:
            raise ConfigError(f"{path} holds no private key", "restore it, or make a new one") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds no Ed25519 key", "name the signing key, not the node's")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write the key where only its owner can read it; an existing file is never replaced.

        Raises:
            ConfigError: There is a file already.
        """
        content = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE)
        except FileExistsError:
            raise ConfigError(f"{path} exists", "keep it, or move it away yourself") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        flush_folder(path.parent)

    @property
    def public(self) -> PublicSealKey:
        """The key that others verify with."""
        return PublicSealKey(self._key.public_key().public_bytes_raw())

    def sign(self, purpose: str, content: bytes) -> bytes:
        """Return the signature of ``content`` for ``purpose``; it is worth nothing for another purpose."""
        return self._key.sign(_sealed(purpose, content))


def _sealed(purpose: str, content: bytes) -> bytes:
    """Return what is signed: a purpose has no zero byte, so no two pairs give the same bytes."""
    return b"fedvox " + purpose.encode() + b"\0" + content
