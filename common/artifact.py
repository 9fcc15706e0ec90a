"""Folders of tensors that are either complete or absent: safetensors plus a JSON manifest.

A folder is written under a temporary name, every file is flushed to the disk, and the folder is
renamed into place: a crash or a full disk leaves what was there before. The manifest holds the
SHA-256 of every other file; reading checks it. Never pickle.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import ArtifactError

MANIFEST = "manifest.json"
OWNER_ONLY = 0o700  # of folders that hold what patients decided
PRIVATE_FILE = 0o600  # of keys, tokens, ledgers


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write_tensor_folder(
    folder: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
) -> None:
    """Write ``groups`` as NAME.safetensors and ``facts`` into the manifest, all or nothing.

    Args:
        folder: Where to; an existing folder is replaced.
        groups: Tensors by group and name; an empty group is left out.
        facts: JSON values for the manifest.

    Raises:
        ArtifactError: The disk is full or not writable; ``folder`` is as it was before.
    """
    with replaced_folder(folder) as partial:
        files = {}
        for group, tensors in groups.items():
            if tensors:
                path = partial / f"{group}.safetensors"
                save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
                files[path.name] = sha256_of_file(path)
        manifest = {**facts, "files": files}
        (partial / MANIFEST).write_text(
            json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


def read_tensor_folder(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the groups and the manifest of a folder, after checking every digest.

    Raises:
        ArtifactError: A file is missing, altered or unreadable.
    """
    manifest = read_manifest(folder)
    groups = {}
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or sha256_of_file(path) != expected:
            raise ArtifactError(f"{path} is missing or altered", "restore the folder from a copy")
        try:
            groups[path.stem] = load_file(path)
        except SafetensorError as error:
            raise ArtifactError(
                f"{path} is not readable: {error}", "restore the folder from a copy"
            ) from None
    return groups, manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of ``folder``.

    Raises:
        ArtifactError: There is none, or it is not the JSON that this module writes.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest["files"], dict):
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ArtifactError(f"{folder} holds no complete {MANIFEST}", "choose another folder")


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends without an error."""
    own = secrets.token_hex(4)  # two threads of one process may write the same folder
    partial = folder.with_name(f".{folder.name}.partial-{own}")
    previous = folder.with_name(f".{folder.name}.previous-{own}")
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush_tree(partial)
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        flush_folder(folder.parent)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{folder} could not be written: {reason}", "free some disk space") from None
    finally:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def remove_others(folder: Path, pattern: str) -> None:
    """Remove the folders beside ``folder`` that ``pattern`` matches: only the newest of a kind is kept."""
    for other in folder.parent.glob(pattern):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def read_snapshot(path: Path) -> dict[str, Any]:
    """Return the mapping in a small JSON file that another process writes; empty while there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_text_atomic(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old content or the new, never a part.

    Raises:
        ArtifactError: The disk is full or not writable; the old content stays.
    """
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a small file so that readers see the old content or the new, never a part.

    Args:
        path: The file.
        content: Its bytes.
        mode: Who may read and write it, less what the process' umask takes away.

    Raises:
        ArtifactError: The disk is full or not writable; the old content stays.
    """
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be written: {error.strerror}", "free some disk space"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Put a folder's names on the disk: a file that was made or renamed is lost without it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
