"""The codec beside MONAI's VQVAE on real MRI: same split, same steps, same process.

    python -m experiments.codec_bench --data ../shared/data/hippocampus-mri --out codec_bench.json

Trained on generator and labelled patients, tested on test patients; 32x48x32, batch 8, downsampling 2,
at most 12 bits per latent position. PSNR (data range 2) over the global mean squared error, and as the
mean over patients. The peer (32 channels, 512 codes of dimension 4) is trained with the same loss weights,
batches and learning-rate schedule; its codebook's perplexity shows whether its latents collapsed.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import VQVAE
from torch import Tensor, nn

from client.batches import batches
from client.dataset import VolumeDataset
from client.site_config import Selection, SiteConfig
from common.artifact import write_text_atomic
from common.codec.codebook import split_dead_codes_of
from common.codec.config import CodecConfig, EmaQuantizerConfig
from common.codec.training import BETAS, CodecTraining, initial_codec_state
from common.federation.config import TrainingConfig
from common.federation.learning_rate import learning_rate_at
from common.federation.seeds import seeded_generator
from common.metrics.reconstruction import mean_over_patients, psnr, psnr_over_global_mse
from common.shapes import VolumeBatch
from common.volume.spec import VolumeSpec

SPEC = VolumeSpec(shape=(32, 48, 32), spacing_mm=(1, 1, 1))
SPLIT = Path(__file__).parent / "configs" / "splits" / "hippocampus.csv"
OURS = CodecConfig(
    channels=32,
    num_res_blocks=0,
    quantizer=EmaQuantizerConfig(num_codes=4096, code_dim=4),
    l1_weight=0,
    commitment_weight=0.05,
)
STEPS_PER_ROUND = 50  # dead codes are split between rounds, as the server does
SEED = 0


def run_codec_bench(data: Path, steps: int = 600, batch_size: int = 8) -> dict[str, Any]:
    """Return PSNR, bits, perplexity and seconds of both codecs."""
    schedule = TrainingConfig(rounds=1, local_steps=steps, batch_size=batch_size, learning_rate=4e-3)
    with tempfile.TemporaryDirectory() as cache:
        train = _dataset(data, ("generator", "labelled"), Path(cache))
        test = _dataset(data, ("test",), Path(cache))
        results: dict[str, Any] = {
            name: run(train, test, schedule) for name, run in (("fedvox", _run_ours), ("monai", _run_peer))
        }
    results["difference_db"] = (
        results["fedvox"]["psnr_over_global_mse"] - results["monai"]["psnr_over_global_mse"]
    )
    return {"steps": steps, "batch_size": batch_size, "patients": test.num_patients, **results}


def _run_ours(train: VolumeDataset, test: VolumeDataset, schedule: TrainingConfig) -> dict[str, Any]:
    state = initial_codec_state(OURS, 1, seeded_generator(SEED, "codec"))
    volumes, started, step = train.volumes(), time.monotonic(), 0
    drawn = list(_batches(train, schedule))
    for first in range(0, len(drawn), STEPS_PER_ROUND):
        training = CodecTraining(OURS, 1, state, torch.device("cpu"))
        for indices in drawn[first : first + STEPS_PER_ROUND]:
            rate = learning_rate_at(step, schedule)
            training.step(volumes[indices], step, rate, seeded_generator(SEED, step))
            step += 1
        state = split_dead_codes_of(training.state())
    seconds = time.monotonic() - started
    codec = training.codec.eval()
    with torch.inference_mode():
        indices = torch.cat([codec.quantize(codec.encode(part)).indices for part in test.volumes().split(8)])
    result = _measure(codec.reconstruct, test)
    return {**result, "bits": math.log2(4096), "perplexity": _perplexity(indices), "seconds": seconds}


def _run_peer(train: VolumeDataset, test: VolumeDataset, schedule: TrainingConfig) -> dict[str, Any]:
    torch.manual_seed(SEED)
    peer = VQVAE(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(32,),
        num_res_layers=1,
        num_res_channels=(32,),
        downsample_parameters=((2, 4, 1, 1),),
        upsample_parameters=((2, 4, 1, 1, 0),),
        num_embeddings=512,
        embedding_dim=4,
        commitment_cost=OURS.commitment_weight,
    )
    optimizer = torch.optim.Adam(peer.parameters(), betas=BETAS)
    volumes, started = train.volumes(), time.monotonic()
    for step, indices in enumerate(_batches(train, schedule)):
        rebuilt, quantization_loss = peer(volumes[indices])
        loss = (rebuilt - volumes[indices]).square().mean() + quantization_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, schedule)
        optimizer.step()
    seconds = time.monotonic() - started
    peer.eval()
    with torch.inference_mode():
        indices = torch.cat([peer.index_quantize(part) for part in test.volumes().split(8)])
    result = _measure(lambda batch: peer(batch)[0], test)
    return {**result, "bits": 9.0, "perplexity": _perplexity(indices), "seconds": seconds}


def _measure(reconstruct: Callable[[VolumeBatch], VolumeBatch], test: VolumeDataset) -> dict[str, float]:
    original = test.volumes()
    with torch.inference_mode():
        rebuilt = torch.cat([reconstruct(part).clamp(-1, 1) for part in original.split(8)])
    return {
        "psnr_over_global_mse": psnr_over_global_mse(rebuilt, original),
        "psnr_mean_over_patients": mean_over_patients(psnr(rebuilt, original), test.patients),
        "intensity_std_kept": float(rebuilt.std() / original.std()),
    }


def _perplexity(indices: Tensor) -> float:
    shares = torch.bincount(indices.flatten()).double()
    shares = shares[shares > 0] / shares.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _batches(train: VolumeDataset, schedule: TrainingConfig) -> Any:
    generator = seeded_generator(SEED, "batches")
    return batches(train.patients, schedule.batch_size, schedule.local_steps, generator)


def _dataset(data: Path, parts: tuple[str, ...], cache: Path) -> VolumeDataset:
    config = SiteConfig(name="bench", data=data, patients=SPLIT, select=Selection(part=parts), state=cache)
    return VolumeDataset.open(config, SPEC)


def main() -> None:
    """Run the bench and write its figures."""
    parser = argparse.ArgumentParser(description="The codec beside MONAI's VQVAE on real MRI.")
    parser.add_argument("--data", type=Path, required=True, help="hippocampus-mri folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    results = run_codec_bench(arguments.data.resolve(), arguments.steps)
    write_text_atomic(arguments.out, json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
