"""SHA-256 of every file, remembered between runs so that opening a data set stays cheap.

A remembered digest counts as long as path, size, modification time and change time are the same.
The change time cannot be set back by copying tools, so a file exchanged under its old date is
noticed too. As in git's index, a file changed less than `SETTLED_NS` before it was hashed is not
remembered: a second change within one tick of the clock would look the same.
"""

import json
import time
from pathlib import Path

from common.artifact import sha256_of_file, write_text_atomic
from common.errors import UnreadableVolumeError

LEDGER = "file_digests.json"
SETTLED_NS = 2_000_000_000


class FileDigests:
    """Digests of files, kept in a folder of the site.

    Args:
        folder: The site's cache folder; an unreadable ledger there is taken as empty.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._known = _read(self._path)
        self._changed = False

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            UnreadableVolumeError: The file cannot be read.
        """
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            name = str(path.resolve())
            known = self._known.get(name)
            if known is not None and known[:3] == stamp:
                return str(known[3])
            digest = sha256_of_file(path)
        except OSError as error:
            raise UnreadableVolumeError(
                f"{path} cannot be read: {error.strerror}", "check links, permissions and the disk"
            ) from None
        if time.time_ns() - max(stamp[1:]) > SETTLED_NS:
            self._known[name] = [*stamp, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learned since the ledger was read.

        Raises:
            ArtifactError: The disk is full or not writable; the old ledger stays.
        """
        if self._changed:
            write_text_atomic(self._path, json.dumps(self._known, indent=0, sort_keys=True))
            self._changed = False


def _read(path: Path) -> dict[str, list[int | str]]:
    """Return the ledger, or nothing if it is missing or not one: it only saves time."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: entry for name, entry in content.items() if isinstance(entry, list) and len(entry) == 4}
