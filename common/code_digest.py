"""Which code it was that computed something."""

import hashlib
from pathlib import Path

from common.artifact import sha256_of_file

CODE = ("common", "client", "server")


def code_digest() -> str:
    """Return the SHA-256 of the code that decides a run's bits: all of it that lies on this machine."""
    root = Path(__file__).parents[1]
    files = sorted(path for name in CODE for path in (root / name).rglob("*.py"))
    lines = [f"{path.relative_to(root).as_posix()} {sha256_of_file(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
