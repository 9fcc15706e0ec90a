"""A folder of synthetic volumes with its montage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from client.exam_folder import find_exams
from client.preprocess import Preprocessed, preprocess
from common.errors import DataError
from common.shapes import VolumeBatch
from common.study import Study
from common.volume.intensity import Window
from common.volume.labels import LabelMaps, numbered, to_channels
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
    volumes = read_synthetic_channels(folder, model.study)
    montage({"synthetic": volumes[:SHOWN]}, folder / "montage.png", model.study.volume)
    return manifest


def read_synthetic(folder: Path, study: Study) -> VolumeBatch:
    """Return the volumes of a synthetic set as a recipient would read them: from the NIfTI files.

    Raises:
        DataError: A file is not what the study needs.
    """
    return _volumes(_exams(folder, study))


def read_synthetic_labels(folder: Path, study: Study) -> LabelMaps:
    """Return the label maps of a synthetic set, in the order of its volumes, by the study's classes.

    Raises:
        DataError: A file is not what the study needs, or a volume has no label map.
    """
    return _label_maps(_exams(folder, study), folder, study)


def read_synthetic_channels(folder: Path, study: Study) -> VolumeBatch:
    """Return the volumes of a synthetic set as a codec sees them: with their label maps, if they have some.

    Raises:
        DataError: See `read_synthetic_labels`.
    """
    exams = _exams(folder, study)
    if not study.volume.labels:
        return _volumes(exams)
    labels = to_channels(_label_maps(exams, folder, study), study.volume.num_label_channels)
    return torch.cat([_volumes(exams), labels], dim=1)


def _volumes(exams: Sequence[Preprocessed]) -> VolumeBatch:
    return torch.stack([exam.volume for exam in exams])


def _label_maps(exams: Sequence[Preprocessed], folder: Path, study: Study) -> LabelMaps:
    maps = [exam.label_map for exam in exams]
    if any(each is None for each in maps):
        raise DataError(
            f"{folder} holds volumes without label maps", "make them with a study that has labels"
        )
    return numbered(torch.stack([each for each in maps if each is not None]), study.volume.labels)


def _exams(folder: Path, study: Study) -> list[Preprocessed]:
    low, high = study.volume.output_range
    window = Window(low, high)  # known: a poor model's volume may lie at its very end
    return [
        preprocess(exam.files, exam.label_file, study.volume, window)
        for exam in find_exams(folder, study.volume.channels)
    ]
