"""A folder of synthetic volumes with its montage."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.shapes import VolumeBatch
from common.study import Study
from common.volume.spec import FixedWindow
from experiments.montage import montage
from server.released_model import ReleasedModel
from server.synthesis import synthesize

SHOWN = 8  # volumes in the montage


def make_synthetic_set(
    model: ReleasedModel,
    folder: Path,
    num: int,
    seed: int,
    batch_size: int = 8,
    after_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write synthetic volumes, their manifest and ``montage.png``; return the manifest."""
    manifest = synthesize(model, folder, num, seed, batch_size=batch_size, after_batch=after_batch)
    volumes = read_synthetic(folder, model.study)
    montage({"synthetic": volumes[:SHOWN]}, folder / "montage.png", model.study.volume)
    return manifest


def read_synthetic(folder: Path, study: Study) -> VolumeBatch:
    """Return the volumes of a synthetic set as a recipient would read them: from the NIfTI files.

    Raises:
        DataError: A file is not what the study needs.
    """
    low, high = study.volume.output_range
    spec = study.volume.model_copy(update={"intensity": FixedWindow(low=low, high=high)})
    with tempfile.TemporaryDirectory() as cache:
        config = SiteConfig(name="synthetic", data=folder, state=Path(cache))
        return VolumeDataset.open(config, spec, of_patients=False).volumes()
