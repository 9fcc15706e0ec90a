"""The console script, called as a person calls it, here or in a process of its own, and what it must say."""

import contextlib
import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np

from cli.main import run


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def fedvox(*words, cwd):
    """Call the console script's entry point in this process: starting Python anew takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["fedvox", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run()
        except SystemExit as stop:
            code = stop.code or 0
    return Result(code, out.getvalue(), err.getvalue())


_WATCHED = """
import faulthandler
import sys

from cli.main import run

if __name__ == "__main__":  # not in the processes of a job board, which import this file
    faulthandler.dump_traceback_later(float(sys.argv.pop(1)), exit=True)
    sys.argv[0] = "fedvox"
    run()
"""


def fedvox_apart(*words, cwd, within_s=600):
    """Call the entry point in a process of its own; after ``within_s`` seconds it tells its stacks and ends.

    Tests that simulate several studies do so as a person does, who starts a process for each.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, *said = (Path(folder) / name for name in ("watched.py", "out", "err"))
        script.write_text(_WATCHED, encoding="utf-8")
        command = [sys.executable, script, str(within_s), *map(str, words)]
        # Files, not pipes: a process that stays behind would hold a pipe open.
        with said[0].open("w") as out, said[1].open("w") as err:
            code = subprocess.run(command, cwd=cwd, stdout=out, stderr=err, check=False).returncode
        return Result(code, *(path.read_text(encoding="utf-8") for path in said))


def refused(result, *fragments):
    """Check for one clear line and exit 1 or 2, without a traceback."""
    assert result.returncode in {1, 2}, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    text = " ".join(result.stderr.split())
    for fragment in fragments:
        assert fragment in text, text


def save_volume(path, generator, side, spacing_mm):
    """Write a cube of random blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = generator.normal(size=(side // 4,) * 3).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    nib.save(nib.Nifti1Image(blocks.astype(np.float32), np.diag([spacing_mm] * 3 + [1])), path)
