"""Where real volumes lie, and the mark of tests that need them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("FEDVOX_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not (DATA / "hippocampus-mri").is_dir(), reason="the real volumes are not at FEDVOX_DATA"
)
