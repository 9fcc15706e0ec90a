"""The quantizers beside the same codec without one, on real MRI.

    python -m experiments.quantizer_bench --data PATH_TO_DATA/hippocampus-mri --out quantizers.json

Every codec is trained for 300 steps of batch 8 on generator and labelled patients, from the same initial
networks and with the same batches. What a quantizer costs is the PSNR of the codec with as many latent
channels and none, minus its own: with more channels the codec without one is better, and the cost of the
same codes higher.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.artifact import write_text_atomic
from common.codec.config import (
    CodecConfig,
    EmaQuantizerConfig,
    FsqQuantizerConfig,
    GradientQuantizerConfig,
    NoQuantizerConfig,
    QuantizerConfig,
)
from common.federation.config import TrainingConfig
from experiments.codec_trial import PatientVolumes, hippocampus, indices_of, measure, train_codec
from experiments.markdown import markdown_table

SCHEDULE = TrainingConfig(rounds=1, local_steps=300, batch_size=8, learning_rate=4e-3)
QUANTIZERS: tuple[QuantizerConfig, ...] = (
    NoQuantizerConfig(code_dim=2),
    EmaQuantizerConfig(num_codes=512, code_dim=2),
    GradientQuantizerConfig(num_codes=512, code_dim=2),
    FsqQuantizerConfig(levels=(23, 22)),
    NoQuantizerConfig(code_dim=3),
    EmaQuantizerConfig(num_codes=512, code_dim=3),
    GradientQuantizerConfig(num_codes=512, code_dim=3),
    FsqQuantizerConfig(levels=(16, 16, 16)),
    EmaQuantizerConfig(num_codes=4096, code_dim=3),
    NoQuantizerConfig(code_dim=4),
    EmaQuantizerConfig(num_codes=4096, code_dim=4),
)
SEED = 0


def run_quantizer_bench(
    train: PatientVolumes,
    held_out: PatientVolumes,
    quantizers: tuple[QuantizerConfig, ...] = QUANTIZERS,
    schedule: TrainingConfig = SCHEDULE,
) -> list[dict[str, Any]]:
    """Return one row per quantizer: what it is, its figures, and what it costs in dB.

    Args:
        train: What every codec learns from.
        held_out: What all are measured on.
        quantizers: Which, in this order; a codec without one for every latent width among them.
        schedule: Steps, batch size and learning rate.
    """
    rows: list[dict[str, Any]] = []
    for quantizer in quantizers:
        codec, seconds = train_codec(codec_with(quantizer), train, schedule, SEED)
        figures = measure(codec.reconstruct, indices_of(codec), held_out)
        facts = {"kind": quantizer.kind, "code_dim": quantizer.code_dim, "codes": num_codes(quantizer)}
        rows.append({**facts, **asdict(figures), "training_seconds": round(seconds, 1)})
    without = {row["code_dim"]: row for row in rows if row["kind"] == "none"}
    for row in rows:
        for name in ("psnr_over_global_mse", "psnr_mean_over_patients"):
            row[f"{name}_cost"] = without[row["code_dim"]][name] - row[name]
    return rows


def codec_with(quantizer: QuantizerConfig) -> CodecConfig:
    """Return the codec of the studies with another quantizer."""
    return CodecConfig(
        channels=32, num_res_blocks=0, quantizer=quantizer, l1_weight=0, commitment_weight=0.05
    )


def num_codes(quantizer: QuantizerConfig) -> int | None:
    """Return how many different codes a position may have; None without a quantizer."""
    match quantizer:
        case EmaQuantizerConfig() | GradientQuantizerConfig():
            return quantizer.num_codes
        case FsqQuantizerConfig():
            return math.prod(quantizer.levels)
        case NoQuantizerConfig():
            return None


def quantizer_bench_text(results: Mapping[str, Any]) -> str:
    """Return the bench as Markdown."""
    columns = (
        "quantizer",
        "latent channels",
        "codes",
        "PSNR over the global error, dB",
        "below no quantizer, dB",
        "PSNR, mean over patients, dB",
        "below no quantizer, dB",
        "deviation kept",
        "perplexity",
    )
    rows = [
        [
            f"`{row['kind']}`",
            str(row["code_dim"]),
            str(row["codes"] or "-"),
            f"{row['psnr_over_global_mse']:.2f}",
            f"{row['psnr_over_global_mse_cost']:.2f}" if row["codes"] else "-",
            f"{row['psnr_mean_over_patients']:.2f}",
            f"{row['psnr_mean_over_patients_cost']:.2f}" if row["codes"] else "-",
            f"{row['intensity_std_kept']:.3f}",
            f"{row['perplexity']:.0f}" if row["codes"] else "-",
        ]
        for row in results["rows"]
    ]
    facts = (
        f"{results['steps']} steps of batch {results['batch_size']}, {results['held_out_patients']} "
        f"{results['held_out_part']} patients, training seed {results['training_seed']} only."
    )
    return f"{facts}\n\n{markdown_table(columns, rows)}"


def main() -> None:
    """Run the bench and write its figures."""
    parser = argparse.ArgumentParser(description="The quantizers beside the same codec without one.")
    parser.add_argument("--data", type=Path, required=True, help="hippocampus-mri folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--part", choices=["validation", "test"], default="test", help="measured on it")
    arguments = parser.parse_args()
    with hippocampus(arguments.data.resolve()) as volumes_of:
        train, held_out = volumes_of(("generator", "labelled")), volumes_of((arguments.part,))
    results = {
        "steps": SCHEDULE.total_steps,
        "batch_size": SCHEDULE.batch_size,
        "training_seed": SEED,
        "held_out_part": arguments.part,
        "held_out_patients": len(set(held_out.patients)),
        "rows": run_quantizer_bench(train, held_out),
    }
    write_text_atomic(arguments.out, json.dumps(results, indent=2) + "\n")
    print(quantizer_bench_text(results))


if __name__ == "__main__":
    main()
