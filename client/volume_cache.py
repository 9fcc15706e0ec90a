"""Preprocessed exams on the site's disk, one safetensors file each, either whole or absent.

The key says everything that the voxels depend on: the digests of the files, the study's volume spec
and the version of the preprocessing. An entry that does not hold what was written (a damaged disk, a
file edited by hand) counts as absent and is made again. The folder may be deleted at any time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from common.artifact import OWNER_ONLY, digest_of_tensors, write_bytes_atomic
from common.errors import ArtifactError


def cache_key(parts: Sequence[str]) -> str:
    """Return the SHA-256 that stands for ``parts`` in this order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class VolumeCache:
    """Tensors by key in a folder that only the site's user can read.

    Args:
        folder: Made if it does not exist.

    Raises:
        ArtifactError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"{folder}: the cache folder cannot be made: {error.strerror}",
                "name a writable folder as `cache` in the site file",
            ) from None

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors stored under ``key``, or None if they are missing or damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        intact = metadata == {"key": key, "digest": digest_of_tensors(tensors)}
        return tensors if intact else None

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``.

        Raises:
            ArtifactError: The disk is full or not writable; the entry is as it was before.
        """
        metadata = {"key": key, "digest": digest_of_tensors(tensors)}
        write_bytes_atomic(self._path(key), save(dict(tensors), metadata))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
