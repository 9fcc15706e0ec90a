"""Which exams lie in a site's folder, and which file holds which channel.

The folder is plain, or has ``images/`` and, if wanted, ``labels/`` with one map per exam. An exam of
a study with several channels is one file per channel, numbered as nnU-Net does: ``EXAM_0000.nii.gz``,
``EXAM_0001.nii.gz``. In a study with one channel the file's stem is the exam; if all files end in
``_0000`` that is the channel's number.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError, EmptyDatasetError, VolumeShapeError

NIFTI = re.compile(r"^(?P<stem>.+?)\.nii(\.gz)?$", re.IGNORECASE)
NUMBERED = re.compile(r"^(?P<exam>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class ExamFiles:
    """The files of one exam: channels in the study's order, and a label map if there is one."""

    exam: str
    files: tuple[Path, ...]
    label_file: Path | None


def find_exams(data: Path, channels: Sequence[str]) -> tuple[ExamFiles, ...]:
    """Return the exams in ``data``, sorted by name; no file is opened.

    Args:
        data: The site's folder.
        channels: The study's channels.

    Raises:
        EmptyDatasetError: There is no such folder, or no NIfTI file in it.
        VolumeShapeError: An exam has more or fewer files than the study has channels.
        DataError: Two files claim to be the same exam, or a label map has no exam.
    """
    images = _nifti_files(_image_folder(data))
    if not images:
        raise EmptyDatasetError(f"{data} holds no NIfTI file", _what_else(data))
    numbered = len(channels) > 1 or all(_channel_of(stem) == 0 for stem in images)
    if not numbered:
        _refuse_several_channels(data, images, channels)
    exams = _by_channel(images, channels) if numbered else {stem: (path,) for stem, path in images.items()}
    labels = _nifti_files(data / "labels") if (data / "images").is_dir() else {}
    orphan = next(iter(labels.keys() - exams.keys()), None)
    if orphan is not None:
        raise DataError(
            f"{labels[orphan]} is the label map of no exam", "name label maps like their exams, or remove it"
        )
    return tuple(ExamFiles(exam, exams[exam], labels.get(exam)) for exam in sorted(exams))


def stem_of(path: Path) -> str:
    """Return the name of a NIfTI file without its ending."""
    match = NIFTI.match(path.name)
    return match["stem"] if match else path.stem


def _image_folder(data: Path) -> Path:
    """Return where the images lie, refusing a folder that has them in two places."""
    if not data.is_dir():
        raise EmptyDatasetError(f"{data}: no such folder", "check `data` in the site file")
    if not (data / "images").is_dir():
        return data
    if _nifti_files(data):
        raise DataError(f"{data} has NIfTI files beside its folder images/", "put all images into images/")
    return data / "images"


def _nifti_files(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by stem; hidden files are not data."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = NIFTI.match(path.name)
        if match is None or path.name.startswith("."):
            continue
        if match["stem"] in files:
            raise DataError(f"{files[match['stem']]} and {path.name} are the same exam", "remove one of them")
        files[match["stem"]] = path
    return files


def _what_else(data: Path) -> str:
    """Return the remedy for a folder without NIfTI files, from what lies there instead."""
    nested = next((path for path in sorted(data.rglob("*.nii*")) if path.is_file()), None)
    if nested is not None:
        return f"sub-folders are not searched: move files such as {nested.relative_to(data)} up"
    kinds = Counter(path.suffix.lower() or "without ending" for path in data.iterdir() if path.is_file())
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "nothing"
    return f"put .nii.gz or .nii files there; found: {found}"


def _channel_of(stem: str) -> int | None:
    match = NUMBERED.match(stem)
    return int(match["channel"]) if match else None


def _by_channel(images: Mapping[str, Path], channels: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Return the files of each exam in channel order, refusing an exam that is not complete."""
    grouped: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in images.items():
        match = NUMBERED.match(stem)
        if match is None:
            raise VolumeShapeError(
                f"{path} does not say which of the study's {len(channels)} channels it is",
                f"name it {stem}_0000.nii.gz for {channels[0]}, and so on",
            )
        grouped[match["exam"]][int(match["channel"])] = path
    for exam, files in grouped.items():
        excess = sorted(files.keys() - set(range(len(channels))))
        if excess:
            raise VolumeShapeError(
                f"{files[excess[0]]} is channel {excess[0]}, counted from 0; "
                f"the study has {len(channels)}: {', '.join(channels)}",
                "remove it, or name the channel in the study's volume.channels",
            )
        missing = sorted(set(range(len(channels))) - files.keys())
        if missing:
            raise VolumeShapeError(
                f"exam {exam} in {next(iter(files.values())).parent} has no {exam}_{missing[0]:04d}.nii.gz, "
                f"its channel {channels[missing[0]]}",
                "bring the missing file, or take the exam out",
            )
    return {exam: tuple(files[i] for i in range(len(channels))) for exam, files in grouped.items()}


def _refuse_several_channels(data: Path, images: Mapping[str, Path], channels: Sequence[str]) -> None:
    """Refuse a folder of several channels per exam in a study with one.

    Read as one exam per file it would count each patient several times. A single run of numbers,
    ``synthetic_0000`` to ``synthetic_0063``, is only a way to name exams.
    """
    matches = [match for match in map(NUMBERED.match, images) if match]
    numbers: dict[str, set[int]] = defaultdict(set)
    for match in matches:
        numbers[match["exam"]].add(int(match["channel"]))
    several = [exam for exam, found in numbers.items() if {0, 1} <= found]
    if len(several) > 1:
        exam = several[0]
        raise VolumeShapeError(
            f"{data} has {len(numbers[exam])} channels of exam {exam}, the study has one: {channels[0]}",
            "name them all in the study's volume.channels, or keep one file per exam",
        )
