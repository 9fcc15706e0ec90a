"""Files of lines that only grow, each line on the disk before anything rests on it."""

import json
import os
from pathlib import Path

from common.artifact import flush_folder
from common.errors import ArtifactError


def append_line(path: Path, text: str) -> None:
    """Append a line and fsync; what is only half written is taken off again.

    Raises:
        ArtifactError: The disk is full; the file is as it was.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if size == 0:
            flush_folder(path.parent)
    except OSError as error:
        with path.open("ab") as file:
            file.truncate(size)
        raise ArtifactError(
            f"{path} could not be written: {error.strerror}", "free some disk space"
        ) from None


def whole_content(path: Path) -> bytes:
    """Return the whole lines of a file, and cut off a last one that was half written.

    A line is written and flushed in one piece before anything rests on it, so half a line is the work of a
    crash, and nothing rests on it. One that only lacks its end is whole, and gets it.
    """
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        start = content.rfind(b"\n") + 1
        with path.open("r+b") as file:
            if _is_json(content[start:]):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
                content += b"\n"
            else:
                file.truncate(start)
                content = content[:start]
            file.flush()
            os.fsync(file.fileno())
    return content


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
