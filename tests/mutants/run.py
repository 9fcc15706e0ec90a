"""Plant every bug in a copy of the project and see whether the tests notice: `make mutants`.

Prints a table and ends with exit code 1 if a bug survives. A run takes some minutes on two cores.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutant import Mutant
from planted import MUTANTS

ROOT = Path(__file__).parents[2]
PARTS = (
    *("common", "client", "server", "deploy", "experiments", "cli"),
    *("tests", "docs", "pyproject.toml", "README.md"),
)
WORKERS = 2


def copy_project(folder: Path) -> None:
    """Copy what tests need to ``folder``, where other users may read it too."""
    folder.chmod(0o755)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)


def plant(mutant: Mutant, folder: Path) -> None:
    """Put the bug into the copy in ``folder``."""
    path = folder / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def failure_of(tests: Sequence[str], folder: str, *options: str) -> str:
    """Return how ``tests`` fail in the copy in ``folder``; nothing if they pass."""
    # -m puts the copy before the installed project on the path.
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *options, *tests]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise SystemExit(f"the tests could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout[-2000:] if done.returncode else ""


def survives(mutant: Mutant) -> bool:
    """Return whether all tests pass with the bug."""
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        plant(mutant, Path(folder))
        return not failure_of(mutant.tests, folder)


def refuse_failing_tests() -> None:
    """Stop if a test fails without any bug: it would seem to catch all of them."""
    every = sorted({test for mutant in MUTANTS for test in mutant.tests})
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        if failure := failure_of(every, folder, "-n", str(WORKERS), "--dist", "loadfile"):
            raise SystemExit(f"tests fail without any planted bug\n{failure}")


def main() -> int:
    """Return 1 if a bug survives."""
    refuse_failing_tests()
    with ThreadPoolExecutor(WORKERS) as pool:
        survivors = list(pool.map(survives, MUTANTS))
    width = max(len(mutant.name) for mutant in MUTANTS)
    for mutant, survived in zip(MUTANTS, survivors, strict=True):
        print(f"{mutant.name:<{width}}  {'SURVIVES' if survived else 'caught'}")
    print(f"{len(MUTANTS) - sum(survivors)} of {len(MUTANTS)} planted bugs caught")
    return int(any(survivors))


if __name__ == "__main__":
    sys.exit(main())
