"""The same curves as the report's, for TensorBoard."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.report.data import Picture
from experiments.report.history import RunHistory


def write_tensorboard(history: RunHistory, folder: Path, pictures: Sequence[Picture] = ()) -> None:
    """Write a run's scalars and pictures into ``folder``, in place of what an earlier call wrote.

    Tags are ``STAGE/METRIC/SITE``, ``STAGE/seconds`` and ``STAGE/bytes_up`` and ``..._down``; the step
    is the round. Values that are not finite are left out: TensorBoard cannot draw them.

    Args:
        history: The run.
        folder: Such as runs/NAME/tensorboard.
        pictures: Shown under the images tab.
    """
    from matplotlib.image import imread  # a second that most commands never need
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    with SummaryWriter(str(folder)) as writer:
        for curve in history.curves:
            for round_index, value in curve.points:
                if math.isfinite(value):
                    writer.add_scalar(f"{curve.stage}/{curve.metric}/{curve.site}", value, round_index)
        for row in history.rounds:
            writer.add_scalar(f"{row.stage}/seconds", row.seconds, row.round_index)
            writer.add_scalar(f"{row.stage}/bytes_up", row.bytes_up, row.round_index)
            writer.add_scalar(f"{row.stage}/bytes_down", row.bytes_down, row.round_index)
        for picture in pictures:
            pixels = np.asarray(imread(picture.path))[..., :3]
            writer.add_image(picture.title, pixels, dataformats="HWC")
