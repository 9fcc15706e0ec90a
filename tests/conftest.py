"""What tests share: where the real volumes are, and a small federation that trains in seconds."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("FEDVOX_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@pytest.fixture
def real_data():
    """The folder of real volumes; the test is skipped where it is missing."""
    if not REAL.is_dir():
        pytest.skip(f"real volumes not found in {REAL}: set FEDVOX_DATA to their folder")
    return REAL
