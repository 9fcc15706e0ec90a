"""Whether a disk has room, asked before something is begun that would fill it."""

import shutil
from pathlib import Path

from common.errors import ArtifactError


def refuse_full_disk(folder: Path, needed: int, what: str) -> int:
    """Return the bytes that are free where ``folder`` is, or will be.

    Args:
        folder: Where something will be written; it need not exist yet.
        needed: Bytes.
        what: What for, in words.

    Raises:
        ArtifactError: There are fewer.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ArtifactError(
            f"{free / 1e9:.2f} GB are free in {folder}, and {what} may fill {needed / 1e9:.2f} GB",
            "free some disk space, or use another folder",
        )
    return free
