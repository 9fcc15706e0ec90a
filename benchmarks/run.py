"""`make bench`: the codec beside MONAI's VQVAE, if the real volumes are at hand."""

import os
import subprocess
import sys
from pathlib import Path

DATA = Path(os.environ.get("FEDVOX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "hippocampus-mri"

if __name__ == "__main__":
    if not DATA.is_dir():
        sys.exit(f"{DATA} not found: set FEDVOX_DATA to the folder of real volumes")
    out = Path("runs") / "codec_bench.json"
    out.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "experiments.codec_bench", "--data", str(DATA), "--out", str(out)]
    sys.exit(subprocess.call(command))  # noqa: S603
