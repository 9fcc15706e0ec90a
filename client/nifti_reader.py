"""One NIfTI file to voxels and affine; every way a file can be wrong has its sentence here.

The file is read once, whole, and nothing is trusted before it is checked: the compression by its
first bytes, not by the name, the header by its magic, the amount of voxel data against what the
header promises (a header alone must not make the program ask for a terabyte).
"""

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from common.errors import NonFiniteVolumeError, UnreadableVolumeError, VolumeShapeError
from common.volume.geometry import Affine, Orientation, spacing_of

GZIP_MAGIC = b"\x1f\x8b"
# NIfTI-1 and NIfTI-2: size of the header, where the magic stands, and what it reads.
FORMATS = {348: (nib.Nifti1Image, 344, b"n+1\0"), 540: (nib.Nifti2Image, 4, b"n+2\0")}
PAIR_MAGICS = (b"ni1\0", b"ni2\0")
COPY_AGAIN = "copy it again from its source, or take it out of the folder"


@dataclass(frozen=True)
class RawVolume:
    """One file as acquired.

    Attributes:
        voxels: float32, in the file's own orientation, all finite.
        affine: Voxel to mm in RAS, float64. A header without coordinates (both codes 0) gives what
            nibabel assumes for it: x runs to the patient's left.
        digest: SHA-256 of the bytes that were read.
    """

    voxels: NDArray[np.float32]
    affine: Affine
    digest: str

    @property
    def orientation(self) -> Orientation:
        """The axes to take, and to reverse, to come as close to RAS as whole turns can."""
        turns = nib.orientations.io_orientation(self.affine)
        sources = [int(np.flatnonzero(turns[:, 0] == axis)[0]) for axis in range(3)]
        x, y, z = ((source, bool(turns[source, 1] < 0)) for source in sources)
        return Orientation(order=(x[0], y[0], z[0]), flipped=(x[1], y[1], z[1]))


def read_volume(path: Path) -> RawVolume:
    """Return the three-dimensional volume in ``path``.

    Raises:
        UnreadableVolumeError: The file is missing, truncated, not NIfTI, or not of real numbers.
        VolumeShapeError: It is not a stack of two or more voxels along three axes, or its affine
            is singular.
        NonFiniteVolumeError: A voxel is NaN or infinite.
    """
    content = _read(path)
    image = _parse(path, _decompressed(path, content))
    _check_shape(path, image.shape)
    if image.get_data_dtype().kind not in "iuf":
        raise UnreadableVolumeError(
            f"{path} holds voxels of type {image.get_data_dtype()}, not real numbers",
            "export magnitude images in grey levels",
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or not all(spacing_of(affine)) or not _invertible(affine):
        raise VolumeShapeError(
            f"{path} has an affine that does not place its voxels in space",
            "export it again with spacing and orientation in the header",
        )
    # Scaling a sick header's voxels may overflow; the check below says so in words.
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = np.asarray(image.dataobj).astype(np.float32).reshape(image.shape[:3])
    broken = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if broken:
        raise NonFiniteVolumeError(
            f"{path} has {broken} of {voxels.size} voxels that are NaN or infinite",
            "mend the conversion that made it, or take it out of the folder",
        )
    return RawVolume(voxels, affine, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        reason = "points to a file that is gone" if path.is_symlink() else "is gone"
        raise UnreadableVolumeError(f"{path} {reason}", COPY_AGAIN) from None
    except IsADirectoryError:
        raise UnreadableVolumeError(f"{path} is a folder, not a file", "rename it") from None
    except OSError as error:
        raise UnreadableVolumeError(
            f"{path} cannot be read: {error.strerror}", "check the file's permissions and the disk"
        ) from None


def _decompressed(path: Path, content: bytes) -> bytes:
    """Return the bytes of the file, unpacked if they are gzip, whatever the name says."""
    try:
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableVolumeError(f"{path} is truncated or damaged: {error}", COPY_AGAIN) from None


def _parse(path: Path, content: bytes) -> nib.Nifti1Image:
    """Return the image, its voxels not yet decoded, after checking that all of them are there."""
    if not content:
        raise UnreadableVolumeError(f"{path} is empty", COPY_AGAIN)
    sizes = {int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")}
    size = next(iter(sizes & FORMATS.keys()), None)
    image_class, position, magic = FORMATS.get(size or 348, FORMATS[348])
    found = content[position : position + 4]
    if size is not None and found in PAIR_MAGICS:
        raise UnreadableVolumeError(
            f"{path} is one half of a header and image pair", "convert the pair to a single .nii.gz"
        )
    if size is None or found != magic:
        raise UnreadableVolumeError(f"{path} is not a NIfTI file", "convert it, or take it out of the folder")
    try:
        image = image_class.from_bytes(content)
        voxels_from = int(image.dataobj.offset)
        promised = math.prod(image.shape) * image.get_data_dtype().itemsize
        if min(image.shape, default=0) < 1:
            raise ValueError(f"sizes {image.shape}")
    except (HeaderDataError, ImageFileError, ValueError, KeyError, OSError, OverflowError) as error:
        raise UnreadableVolumeError(f"{path} has a damaged header: {error}", COPY_AGAIN) from None
    if len(content) - voxels_from < promised:
        raise UnreadableVolumeError(
            f"{path} is truncated: {max(0, len(content) - voxels_from)} of {promised} bytes of voxels",
            COPY_AGAIN,
        )
    return image


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse what is not a volume; single axes after the third are harmless and common."""
    text = " x ".join(str(size) for size in shape)
    if len(shape) > 3 and any(size != 1 for size in shape[3:]):
        raise VolumeShapeError(
            f"{path} has {len(shape)} axes ({text}), a volume has three",
            "write one file per channel or time point: EXAM_0000.nii.gz, EXAM_0001.nii.gz",
        )
    if len(shape) < 3 or any(size < 2 for size in shape[:3]):
        raise VolumeShapeError(
            f"{path} is a single image ({text}), not a volume", "stack the slices of an exam in one file"
        )


def _invertible(affine: Affine) -> bool:
    """Tell whether the three axes span space, independent of their spacing."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(abs(np.linalg.det(directions)) > 1e-3)
