"""Randomness that nobody outside this process can repeat: coins, draws and noise of a private run.

Every round that is computed, also one that is computed again, draws 32 bytes from the operating system
and keeps them in memory only: never logged, never in a checkpoint, gone with the round. From them
HMAC-SHA256 makes one key per purpose, and ChaCha20 (RFC 8439) the bits of that purpose's stream. So the
coins of one patient are the same whoever else is in the dataset, and knowing some outputs helps nobody to
others. PyTorch's and NumPy's generators, whose states can be computed from their outputs, take no part in
coins or noise.
"""

import hashlib
import hmac
import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

from common.errors import PrivacyError

_NONCE = bytes(16)  # a key serves one stream, so its counter and nonce may start at zero
_MANTISSA_BITS = 53


class SecretStream:
    """The numbers of one purpose, in order.

    Args:
        key: 32 bytes, used for nothing else.
    """

    def __init__(self, key: bytes) -> None:
        self._bits: CipherContext = Cipher(algorithms.ChaCha20(key, _NONCE), mode=None).encryptor()

    def __repr__(self) -> str:
        return "SecretStream(...)"

    def uniform(self, num: int) -> NDArray[np.float64]:
        """Return ``num`` numbers above 0 and at most 1, of 53 random bits each."""
        words = np.frombuffer(self._bits.update(bytes(8 * num)), dtype="<u8")
        kept = (words >> np.uint64(64 - _MANTISSA_BITS)).astype(np.float64)
        return (kept + 1.0) * 2.0**-_MANTISSA_BITS

    def normal(self, num: int) -> NDArray[np.float64]:
        """Return ``num`` standard normal numbers in float64 (Box & Muller 1958), at most 8.6 in size."""
        pairs = (num + 1) // 2
        radius = np.sqrt(-2 * np.log(self.uniform(pairs)))
        angle = 2 * math.pi * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:num]

    def seed(self) -> int:
        """Return 32 random bits: a seed of generators for what need not be secret from its own outputs."""
        return int.from_bytes(self._bits.update(bytes(4)), "little")


class RoundSecret:
    """The secret of one execution of one private round: a retry has another, so no noise is used twice.

    Args:
        secret: 32 bytes that nobody else knows; tests pass their own.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError(f"a round's secret has 32 bytes, not {len(secret)}")
        self.__secret = secret
        self.__process = os.getpid()
        self.__used: set[bytes] = set()

    @classmethod
    def drawn(cls) -> "RoundSecret":
        """Return a fresh secret from the operating system."""
        return cls(os.urandom(32))

    def __repr__(self) -> str:
        return "RoundSecret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a round's secret is never stored or sent")

    def stream(self, *purpose: str | int) -> SecretStream:
        """Return the stream of a purpose, once; streams of different purposes are unrelated.

        Args:
            purpose: Names and numbers, such as stage, step and patient.

        Raises:
            PrivacyError: The purpose was served before, or the process is a copy of the one that drew the
                secret: the same noise must not be used twice.
        """
        if os.getpid() != self.__process:
            raise PrivacyError("a secret was copied into another process", "draw a new secret there")
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        # A file name that is not UTF-8 is a string with surrogates, and a patient all the same.
        parts = [str(part).encode(errors="surrogatepass") for part in purpose]
        message = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        if message in self.__used:
            raise PrivacyError("the same secret randomness was asked for twice", "draw a new secret")
        self.__used.add(message)
        return SecretStream(hmac.new(self.__secret, message, hashlib.sha256).digest())
