"""The codec beside MONAI's VQVAE on real MRI: same split, same steps, same process.

    python -m experiments.codec_bench --data PATH_TO_DATA/hippocampus-mri --out codec_bench.json

Trained on generator and labelled patients, tested on test patients; 32x48x32, batch 8, downsampling 2,
at most 12 bits per latent position. PSNR (data range 2) over the global mean squared error, and as the
mean over patients. The peer (32 channels, codes of dimension 4) is trained with the same loss weights,
batches and learning-rate schedule; its codebook's perplexity shows whether its latents collapsed. It
runs with 512 codes, as published, and with as many bits as ours.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import VQVAE
from torch import Tensor, nn

from common.artifact import write_text_atomic
from common.codec.config import CodecConfig, EmaQuantizerConfig
from common.codec.training import BETAS
from common.federation.config import TrainingConfig
from common.federation.learning_rate import learning_rate_at
from common.federation.seeds import seeded_generator
from common.metrics.bootstrap import bootstrap_paired_difference
from common.shapes import VolumeBatch
from experiments.codec_trial import (
    PatientVolumes,
    drawn_batches,
    hippocampus,
    indices_of,
    measure,
    psnr_by_patient,
    train_codec,
)
from experiments.markdown import interval_text, markdown_table

CODES = 4096
OURS = CodecConfig(
    channels=32,
    num_res_blocks=0,
    quantizer=EmaQuantizerConfig(num_codes=CODES, code_dim=4),
    l1_weight=0,
    commitment_weight=0.05,
)
PEER_CODES = {"MONAI VQVAE": 512, "MONAI VQVAE, as many bits": CODES}
SEED = 0


@dataclass(frozen=True)
class TrainedCodec:
    """A codec as two functions, so that all are measured alike."""

    reconstruct: Callable[[VolumeBatch], VolumeBatch]
    indices: Callable[[VolumeBatch], Tensor]
    num_codes: int
    seconds: float


def run_codec_bench(data: Path, steps: int, batch_size: int = 8) -> dict[str, Any]:
    """Return figures, bits and seconds of every codec, and our PSNR minus each peer's."""
    schedule = TrainingConfig(rounds=1, local_steps=steps, batch_size=batch_size, learning_rate=4e-3)
    with hippocampus(data) as volumes_of:
        train, test = volumes_of(("generator", "labelled")), volumes_of(("test",))
    codecs = {"fedvox": _train_ours(train, schedule)}
    codecs |= {name: _train_peer(train, schedule, codes) for name, codes in PEER_CODES.items()}
    figures = {name: measure(codec.reconstruct, codec.indices, test) for name, codec in codecs.items()}
    by_patient = {name: psnr_by_patient(codec.reconstruct, test) for name, codec in codecs.items()}
    generator = seeded_generator(SEED, "differences")
    return {
        "steps": steps,
        "batch_size": batch_size,
        "training_seed": SEED,
        "test_patients": len(by_patient["fedvox"]),
        "codecs": {
            name: {
                **asdict(figures[name]),
                "bits": math.log2(codec.num_codes),
                "training_seconds": round(codec.seconds, 1),
            }
            for name, codec in codecs.items()
        },
        "fedvox_minus": {
            name: {
                "psnr_over_global_mse": figures["fedvox"].psnr_over_global_mse
                - figures[name].psnr_over_global_mse,
                "psnr_mean_over_patients": asdict(
                    bootstrap_paired_difference(by_patient["fedvox"], by_patient[name], generator)
                ),
            }
            for name in PEER_CODES
        },
    }


def codec_bench_text(results: dict[str, Any]) -> str:
    """Return the bench as Markdown."""
    rows = {
        "bits per latent position": ("bits", ".0f"),
        "PSNR over the global error, dB": ("psnr_over_global_mse", ".2f"),
        "PSNR, mean over patients, dB": ("psnr_mean_over_patients", ".2f"),
        "intensity deviation kept": ("intensity_std_kept", ".3f"),
        "codebook perplexity": ("perplexity", ".0f"),
        "training, s": ("training_seconds", ".0f"),
    }
    codecs, minus = results["codecs"], results["fedvox_minus"]
    table = [[title, *(f"{c[key]:{form}}" for c in codecs.values())] for title, (key, form) in rows.items()]
    table.append(
        ["fedvox minus it, global, dB", "", *(f"{d['psnr_over_global_mse']:+.2f}" for d in minus.values())]
    )
    by_patient = [interval_text(d["psnr_mean_over_patients"], 2, signed=True) for d in minus.values()]
    table.append(["fedvox minus it, by patient, dB", "", *by_patient])
    facts = (
        f"{results['steps']} steps of batch {results['batch_size']}, {results['test_patients']} test "
        f"patients, training seed {results['training_seed']} only; intervals over patients."
    )
    return f"{facts}\n\n{markdown_table(['', *codecs], table)}"


def _train_ours(train: PatientVolumes, schedule: TrainingConfig) -> TrainedCodec:
    codec, seconds = train_codec(OURS, train, schedule, SEED)
    return TrainedCodec(codec.reconstruct, indices_of(codec), CODES, seconds)


def _train_peer(train: PatientVolumes, schedule: TrainingConfig, num_codes: int) -> TrainedCodec:
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
        num_embeddings=num_codes,
        embedding_dim=4,
        commitment_cost=OURS.commitment_weight,
    )
    optimizer = torch.optim.Adam(peer.parameters(), betas=BETAS)
    drawn, started = drawn_batches(train, schedule, SEED), time.monotonic()
    for step, indices in enumerate(drawn):
        rebuilt, quantization_loss = peer(train.volumes[indices])
        loss = (rebuilt - train.volumes[indices]).square().mean() + quantization_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, schedule)
        optimizer.step()
    seconds = time.monotonic() - started
    peer.eval()
    return TrainedCodec(lambda batch: peer(batch)[0], peer.index_quantize, num_codes, seconds)


def main() -> None:
    """Run the bench and write its figures."""
    parser = argparse.ArgumentParser(description="The codec beside MONAI's VQVAE on real MRI.")
    parser.add_argument("--data", type=Path, required=True, help="hippocampus-mri folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    results = run_codec_bench(arguments.data.resolve(), arguments.steps)
    write_text_atomic(arguments.out, json.dumps(results, indent=2) + "\n")
    print(codec_bench_text(results))


if __name__ == "__main__":
    main()
