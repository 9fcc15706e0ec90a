"""`make bench`: the cost of private gradients; the codec beside MONAI's VQVAE, if volumes are at hand."""

import os
import subprocess
import sys
from pathlib import Path

DATA = Path(os.environ.get("FEDVOX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "hippocampus-mri"
OUT = Path("runs")


def run(module: str, *words: str) -> int:
    """Return the exit code of a benchmark."""
    return subprocess.call([sys.executable, "-m", module, *words])  # noqa: S603


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    if code := run("experiments.private_cost", "--out", str(OUT / "private_cost.json")):
        sys.exit(code)
    if not DATA.is_dir():
        sys.exit(f"{DATA} not found: set FEDVOX_DATA to the folder of real volumes")
    sys.exit(run("experiments.codec_bench", "--data", str(DATA), "--out", str(OUT / "codec_bench.json")))
