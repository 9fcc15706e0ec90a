"""Reports' tensors on the disk, read one at a time: memory does not grow with the number of sites.

A file lives as long as the report that it belongs to. Those of a server that was killed are removed by the
next one.
"""

import secrets
import shutil
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from common.artifact import OWNER_ONLY
from common.errors import ArtifactError, WireError


class Spool:
    """Keeps tensors in files.

    Args:
        folder: Where; what lies there is of an earlier server and removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)

    def keep(self, content: bytes) -> Mapping[str, Tensor]:
        """Return tensors in safetensors form, by name in name order, as they are read from a file.

        Raises:
            WireError: ``content`` holds no tensors.
            ArtifactError: The disk is full or not writable.
        """
        path = self._folder / f"{secrets.token_hex(8)}.safetensors"
        try:
            self._folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ArtifactError(
                f"a report could not be put on the disk: {error.strerror}", "free some disk space"
            ) from None
        try:
            return _SpooledTensors(path)
        except Exception as error:  # whoever wrote it chose its kinds of numbers too
            path.unlink()
            raise WireError(f"a section holds no tensors: {error}", "ask for it again") from None


class _SpooledTensors(Mapping[str, Tensor]):
    """Tensors of one file, which is removed with this object."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self._names = tuple(sorted(file.keys()))
            for name in self._names:
                file.get_tensor(name)  # all can be read, or none counts
        self._path = path
        weakref.finalize(self, path.unlink, missing_ok=True)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        # Opened for each: the pages of a file that stays open count as memory of this process.
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(name).clone()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
