"""The only writer of NIfTI files: the same volume always gives the same bytes.

No time, no file name and no machine enters the file, so its SHA-256 can be reproduced (with one
build of zlib) and stands in manifests.
"""

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from common.artifact import write_bytes_atomic
from common.errors import NonFiniteVolumeError, VolumeShapeError
from common.shapes import LabelMap, Volume
from common.volume.geometry import Spacing, centred_affine
from common.volume.intensity import Window
from common.volume.spec import VolumeSpec

COMPRESSION_LEVEL = 6
ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT: coordinates in mm, aligned with no scanner
LARGEST_LABEL = 32767


def write_volume(path_stem: Path, volume: Volume, spec: VolumeSpec) -> list[Path]:
    """Write one exam, one float32 file per channel, and return the files in channel order.

    -1 and 1 become the ends of ``spec.output_range``; what a decoder put outside is clipped. The
    affine is RAS at ``spec.written_spacing_mm`` with the volume's centre at 0 mm.

    Args:
        path_stem: ``DIR/STEM``; files are ``STEM.nii.gz``, or ``STEM_0000.nii.gz``,
            ``STEM_0001.nii.gz``, ... in a study with several channels.
        volume: Normalised, in [-1, 1].
        spec: Channels, spacing and output range of the study.

    Raises:
        VolumeShapeError: The volume has not the study's channels.
        NonFiniteVolumeError: A voxel is NaN or infinite.
        ArtifactError: The disk is full or not writable; no file of the exam is left behind.
    """
    if volume.ndim != 4 or volume.shape[0] != spec.num_channels:
        raise VolumeShapeError(
            f"cannot write a volume of shape {tuple(volume.shape)} as {spec.num_channels} channel(s)",
            "give one axis for channels and three for x, y, z",
        )
    if not bool(torch.isfinite(volume).all()):
        raise NonFiniteVolumeError(
            f"{path_stem.name} has NaN or infinite voxels", "the model that made it diverged"
        )
    window = Window(*spec.output_range)
    intensities = window.denormalize(volume.detach().float().clamp(-1, 1)).cpu().numpy()
    paths = [path_stem.with_name(path_stem.name + suffix) for suffix in file_suffixes(spec.num_channels)]
    written: list[Path] = []
    try:
        for path, channel in zip(paths, intensities, strict=True):
            content = _nifti_bytes(channel, spec.written_spacing_mm, spec.output_range)
            write_bytes_atomic(path, content)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return paths


def write_label_map(path_stem: Path, label_map: LabelMap, spec: VolumeSpec) -> Path:
    """Write a label map beside the volume of the same shape, as the smallest type that holds it.

    Raises:
        VolumeShapeError: The map is not three-dimensional, or holds a label outside 0 to 32767.
        ArtifactError: The disk is full or not writable; nothing is left behind.
    """
    if label_map.ndim != 3:
        raise VolumeShapeError(
            f"cannot write a label map of shape {tuple(label_map.shape)}", "give the axes x, y, z"
        )
    lowest, highest = int(label_map.min()), int(label_map.max())
    if lowest < 0 or highest > LARGEST_LABEL:
        raise VolumeShapeError(
            f"{path_stem.name} has labels from {lowest} to {highest}",
            f"number tissues from 0 to {LARGEST_LABEL}",
        )
    smallest = np.uint8 if highest <= np.iinfo(np.uint8).max else np.int16
    path = path_stem.with_name(path_stem.name + ".nii.gz")
    labels = label_map.detach().cpu().numpy().astype(smallest)
    write_bytes_atomic(path, _nifti_bytes(labels, spec.written_spacing_mm, (0, highest)))
    return path


def file_suffixes(num_channels: int) -> list[str]:
    """Return what follows an exam's stem in the names of its files, in channel order."""
    if num_channels == 1:
        return [".nii.gz"]
    return [f"_{channel:04d}.nii.gz" for channel in range(num_channels)]


def _nifti_bytes(voxels: NDArray[np.generic], spacing_mm: Spacing, shown_range: tuple[float, float]) -> bytes:
    """Return the compressed file; viewers open it at ``shown_range``."""
    affine = centred_affine(voxels.shape, spacing_mm)
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=ALIGNED)
    image.set_sform(affine, code=ALIGNED)
    image.header.set_xyzt_units(xyz="mm")
    image.header["descrip"] = b"written by fedvox"
    image.header["cal_min"], image.header["cal_max"] = shown_range
    buffer = io.BytesIO()
    # An empty name and time 0 keep gzip's own header from telling one run from another.
    with gzip.GzipFile(
        filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=buffer, mtime=0
    ) as file:
        file.write(image.to_bytes())
    return buffer.getvalue()
