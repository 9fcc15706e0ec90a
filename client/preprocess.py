"""One exam as acquired to one volume of the study: orient, measure the window, resample, scale, fit.

The order matters. The window is measured on the voxels as acquired, all channels together, so
neither the study's shape nor any padding moves it; padding comes last and is `BACKGROUND`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.nifti_reader import RawVolume, read_volume
from common.errors import ConstantVolumeError, DataError, VolumeShapeError
from common.shapes import LabelMap, Volume
from common.volume.geometry import (
    Affine,
    crop_or_pad,
    cropped_affine,
    reorient,
    reoriented_affine,
    resample,
    resampled_affine,
    resampled_shape,
    spacing_of,
)
from common.volume.intensity import BACKGROUND, Window, window_of
from common.volume.spec import VolumeSpec

# Raise it whenever the same file and spec give other voxels: it is part of every cache key.
PREPROCESSING_VERSION = 1
# More than any scanner resolves, fewer than any volume has: beyond, the header's spacing is wrong.
LARGEST_AXIS, SMALLEST_AXIS = 4096, 2
SAME_GRID_VOXELS = 0.1


@dataclass(frozen=True)
class Preprocessed:
    """An exam on the study's grid, and how to find the way back.

    Attributes:
        volume: Normalised, float32, of the study's shape.
        label_map: On the voxels of ``volume``, if the exam has one; 0 where padded.
        affine: Voxel to mm of both, float64.
        window: The intensities that became -1 and 1.
        digests: SHA-256 of each file as it was read, the label map's last.
    """

    volume: Volume
    label_map: LabelMap | None
    affine: Affine
    window: Window
    digests: tuple[str, ...]


def preprocess(
    files: Sequence[Path], label_file: Path | None, spec: VolumeSpec, window: Window | None = None
) -> Preprocessed:
    """Return the exam whose channels lie in ``files``.

    Args:
        files: One per channel.
        label_file: The label map, if the exam has one.
        spec: What the study needs.
        window: To scale by, if it is known; else it is measured as the study says.

    Raises:
        DataError: A file cannot be read, channels or label map differ in shape or place, the exam is
            constant, labels are not whole numbers, or the spacing cannot be meant.
    """
    channels = [read_volume(path) for path in files]
    first = channels[0]
    for path, channel in zip(files, channels, strict=True):
        _check_same_grid(path, channel, files[0], first)
    shape, spacing, affine = _oriented(first, files[0], spec)
    voxels = torch.from_numpy(np.stack([channel.voxels for channel in channels]))
    try:
        window = window or window_of(voxels, spec)
    except ConstantVolumeError as error:
        raise ConstantVolumeError(f"{files[0]}: {error.message}", error.remedy) from None
    volume = resample(reorient(voxels, first.orientation), spacing, spec.spacing_mm, "trilinear")
    digests = tuple(channel.digest for channel in channels)
    label_map = None
    if label_file is not None:
        labels = read_volume(label_file)
        digests += (labels.digest,)
        _check_same_grid(label_file, labels, files[0], first)
        label_map = resample(_whole_labels(label_file, labels, first), spacing, spec.spacing_mm, "nearest")
        label_map = crop_or_pad(label_map, spec.shape, fill=0).contiguous()
    affine = resampled_affine(affine, shape, spacing, spec.spacing_mm)
    return Preprocessed(
        volume=crop_or_pad(window.normalize(volume), spec.shape, fill=BACKGROUND).contiguous(),
        label_map=label_map,
        affine=cropped_affine(affine, volume.shape[-3:], spec.shape),
        window=window,
        digests=digests,
    )


def _whole_labels(path: Path, labels: RawVolume, image: RawVolume) -> LabelMap:
    """Return a label map as whole numbers, in RAS; its image's header says which way it lies."""
    if labels.voxels.min() < 0 or (labels.voxels % 1).any():
        raise DataError(
            f"{path} holds values that are not whole labels from 0", "export labels, not probabilities"
        )
    return reorient(torch.from_numpy(labels.voxels).long(), image.orientation)


def _oriented(
    raw: RawVolume, path: Path, spec: VolumeSpec
) -> tuple[tuple[int, int, int], tuple[float, float, float], Affine]:
    """Return shape, spacing and affine after reorientation, checked to be fit for resampling."""
    order = raw.orientation.order
    x, y, z = (raw.voxels.shape[axis] for axis in order)
    affine = reoriented_affine(raw.affine, raw.voxels.shape, raw.orientation)
    spacing = spacing_of(affine)
    for axis, size, before in zip(
        "xyz", resampled_shape((x, y, z), spacing, spec.spacing_mm), spacing, strict=True
    ):
        if not SMALLEST_AXIS <= size <= LARGEST_AXIS:
            raise VolumeShapeError(
                f"{path} would have {size} voxels along {axis}, where its header says {before:g} mm a voxel",
                "write the spacing in mm into the header",
            )
    return (x, y, z), spacing, affine


def _check_same_grid(path: Path, volume: RawVolume, reference_path: Path, reference: RawVolume) -> None:
    """Refuse a channel or label map whose voxels are not those of the exam's first channel."""
    shape, expected = volume.voxels.shape, reference.voxels.shape
    if shape != expected:
        raise VolumeShapeError(
            f"{path} has {' x '.join(map(str, shape))} voxels, {reference_path.name} has "
            f"{' x '.join(map(str, expected))}",
            "resample one onto the other before bringing them in",
        )
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape), [1], indexing="ij")).reshape(4, -1)
    distance = np.linalg.norm(((volume.affine - reference.affine) @ corners)[:3], axis=0).max()
    if distance > SAME_GRID_VOXELS * min(spacing_of(reference.affine)):
        raise VolumeShapeError(
            f"{path} lies {distance:.2f} mm away from {reference_path.name} of the same exam",
            "register or resample one onto the other before bringing them in",
        )
