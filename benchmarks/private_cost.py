"""What per-patient gradients cost: `python -m benchmarks.private_cost --out runs/private_cost.json`.

Batch 8 at the sizes of the hippocampus study. Every way to get gradients makes the same step in turn, five
rounds of it, and the fastest of the five counts; peak memory is that of a fresh process each.

    plain      mean loss, one backward pass: the step without privacy
    stock      Opacus' hooks with its own sampler for 3D convolutions
    hooks      the same hooks with fedvox's grouped sampler
    vmap       torch.func
    one call a patient, with 1 or 4 draws: what a private run does (docs/decisions/0008); `plain` has as many
    rows
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from opacus import GradSampleModule
from opacus.grad_sample.conv import compute_conv_grad_sample
from torch import Tensor, nn

from client.private.gradient_engines import hook_gradients, loop_gradients, vmap_gradients
from client.private.private_step import clip_and_sum
from common.artifact import write_text_atomic
from common.codec.codec import Codec
from common.codec.config import CodecConfig, FsqQuantizerConfig
from common.codec.training import codec_loss
from common.diffusion.adapters import adapt
from common.diffusion.config import DiffusionConfig, TrainableConfig
from common.diffusion.objective import Draws, make_objective
from common.diffusion.unet import UNetDenoiser

PATIENTS, DRAWS, REPEATS = 8, 4, 5
NETWORKS = ("codec", "denoiser", "denoiser, LoRA 1")
WAYS = (
    "plain",
    "stock",
    "hooks",
    "vmap",
    "one call a patient",
    "plain, 4 draws",
    "one call a patient, 4 draws",
)
CODEC = CodecConfig(channels=16, num_res_blocks=0, quantizer=FsqQuantizerConfig(levels=(8, 8, 8)))
DIFFUSION = DiffusionConfig()


def case(
    network: str, rows: int
) -> tuple[nn.Module, Callable[[nn.Module, dict[str, Tensor]], Tensor], dict[str, Tensor]]:
    """Return a network away from its start, its loss per row, and rows."""
    generator = torch.Generator().manual_seed(0)
    if network == "codec":
        module: nn.Module = Codec(CODEC, 1, generator)
        data = {"volume": torch.rand(rows, 1, 32, 48, 32, generator=generator) * 2 - 1}
        return _stirred(module), lambda m, r: codec_loss(m, CODEC, r["volume"]), data
    module = UNetDenoiser(DIFFUSION.denoiser, 3, 0, generator)
    if network != "denoiser":
        adapt(module, TrainableConfig(kind="lora", rank=1), generator)
    objective = make_objective(DIFFUSION)
    latent = torch.randn(rows, 3, 16, 24, 16, generator=generator)
    draws = objective.draw(latent, generator)
    data = {"latent": latent, "time": draws.time, "eps": draws.eps, "drop": draws.drop_label}
    return (
        _stirred(module),
        lambda m, r: objective.loss_at(m, r["latent"], None, Draws(r["time"], r["eps"], r["drop"])),
        data,
    )


def _stirred(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module


def step(way: str, module: nn.Module, loss, rows: dict[str, Tensor]) -> None:
    """Make one gradient in one of the ways, up to the clipped sum where there is one."""
    if way.startswith("plain"):
        loss(module, rows).mean().backward()
        module.zero_grad(set_to_none=True)
    elif way.startswith("one call"):
        draws = len(next(iter(rows.values()))) // PATIENTS
        for start in range(0, PATIENTS * draws, draws):
            own = {name: tensor[start : start + draws] for name, tensor in rows.items()}
            clip_and_sum(loop_gradients(module, loss, own, [draws]), 1.0)
    elif way == "vmap":
        clip_and_sum(vmap_gradients(module, loss, rows, [1] * PATIENTS), 1.0)
    else:
        grouped = GradSampleModule.GRAD_SAMPLERS[nn.Conv3d]
        if way == "stock":
            GradSampleModule.GRAD_SAMPLERS[nn.Conv3d] = compute_conv_grad_sample
        clip_and_sum(hook_gradients(module, loss, rows, [1] * PATIENTS), 1.0)
        GradSampleModule.GRAD_SAMPLERS[nn.Conv3d] = grouped


def seconds(network: str) -> dict[str, float]:
    """Return the fastest of five interleaved steps of every way."""
    cases = {way: case(network, PATIENTS * (DRAWS if "4 draws" in way else 1)) for way in WAYS}
    best = dict.fromkeys(WAYS, float("inf"))
    for repeat in range(REPEATS + 1):
        for way in WAYS:
            started = time.perf_counter()
            step(way, *cases[way])
            if repeat:  # the first warms up
                best[way] = min(best[way], time.perf_counter() - started)
    return best


def peak_mb(network: str, way: str) -> float:
    """Return how much a step of a fresh process adds to its peak memory, in MB."""
    words = [sys.executable, "-m", "benchmarks.private_cost", "--memory-of", network, way]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def _print_peak(network: str, way: str) -> None:
    prepared = case(network, PATIENTS * (DRAWS if "4 draws" in way else 1))
    before = _highest_kb()
    step(way, *prepared)
    print((_highest_kb() - before) / 1024)


def _highest_kb() -> int:
    """Return the process's own peak; rusage's would begin with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2)
    arguments = parser.parse_args()
    if arguments.memory_of:
        _print_peak(*arguments.memory_of)
        return
    results = {}
    for network in NETWORKS:
        times = seconds(network)
        peaks = {way: peak_mb(network, way) for way in WAYS}
        engines = {way: times[way] for way in ("hooks", "vmap", "one call a patient")}
        fastest = min(engines, key=lambda way: engines[way])
        results[network] = {
            "seconds": times,
            "peak_mb": peaks,
            "fastest_engine": fastest,
            "fastest_over_plain": times[fastest] / times["plain"],
            "fastest_over_stock": times[fastest] / times["stock"],
            "extra_mb": peaks[fastest] - peaks["plain"],
            "stock_extra_mb": peaks["stock"] - peaks["plain"],
            "in_use_over_plain_4_draws": times["one call a patient, 4 draws"] / times["plain, 4 draws"],
        }
    text = json.dumps(
        {"batch": PATIENTS, "repeats": REPEATS, "threads": torch.get_num_threads(), "networks": results},
        indent=2,
    )
    if arguments.out:
        write_text_atomic(arguments.out, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
