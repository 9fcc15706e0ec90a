"""The console script, called as a person calls it but in this process, and what its answers must be."""

import contextlib
import io
import sys
from dataclasses import dataclass
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
