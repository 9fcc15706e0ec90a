"""The app that the coordinator ships to couriers: made from the installed release, the same bytes everywhere.

A site makes it from its own installation and lets no other run (deploy/guarded_supernode.py). So a
coordinator cannot have a hospital run code that the hospital did not install.
"""

import hashlib
from pathlib import Path

from flwr.cli.build import build_fab_from_files

import common
from common.artifact import write_bytes_atomic
from common.release import release

PARTS = ("common", "client", "server")

PYPROJECT = """\
[project]
name = "fedvox"
version = "{version}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedvox"
fab-include = ["common/**/*.py", "client/**/*.py", "server/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run-folder = ""
coordinator = ""
"""


def bundle_files() -> dict[str, bytes]:
    """Return the files of the app, by their paths in it."""
    root = Path(common.__file__).parents[1]
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for part in PARTS
        for path in sorted((root / part).rglob("*.py"))
    }
    return {"pyproject.toml": PYPROJECT.format(version=release()).encode(), **files}


def bundle_hash() -> str:
    """Return the SHA-256 of the app as Flower packs it."""
    content, _ = build_fab_from_files(bundle_files())
    return hashlib.sha256(content).hexdigest()


def write_bundle(folder: Path) -> None:
    """Write the app's files for ``flwr run``, which packs them."""
    for name, content in bundle_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, content)
