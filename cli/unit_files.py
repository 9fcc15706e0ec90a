"""Where unit files go."""

from collections.abc import Mapping
from pathlib import Path

from common.artifact import write_text_atomic

UNIT_FILES = Path("units")


def write_units(folder: Path, texts: Mapping[str, str]) -> None:
    """Write unit files by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
