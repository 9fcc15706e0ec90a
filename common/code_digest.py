"""Which code it was that computed something."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.artifact import sha256_of_file

CODE = ("common", "client", "server")


def code_digest(parts: Sequence[str] = CODE) -> str:
    """Return the SHA-256 of the code that decides a run's bits: all of it that lies on this machine.

    Args:
        parts: Packages of the project, or single files.
    """
    root = Path(__file__).parents[1]
    places = [root / part for part in parts]
    files = sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.py")))
    lines = [f"{path.relative_to(root).as_posix()} {sha256_of_file(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
