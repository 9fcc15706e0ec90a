"""A figure of matplotlib as a file: the same bytes for the same figure."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from common.artifact import write_bytes_atomic

if TYPE_CHECKING:  # half a second that most commands never need
    from matplotlib.figure import Figure


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG without date or version.

    Raises:
        ArtifactError: The disk is full or not writable.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    write_bytes_atomic(path, content.getvalue())
