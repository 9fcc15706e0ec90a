"""What per-patient gradients cost: `python -m experiments.private_cost --out runs/private_cost.json`.

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
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample.conv import compute_conv_grad_sample
from torch import Tensor, nn

from client.private.conv3d_sampler import conv3d_grad_sample
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
from common.privacy.patient_gradients import RowLoss, trainable
from experiments.markdown import markdown_table

PATIENTS, DRAWS, REPEATS, CLIP_NORM = 8, 4, 5, 1.0
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


def case(network: str, rows: int) -> tuple[nn.Module, RowLoss, dict[str, Tensor]]:
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


def step(way: str, module: nn.Module, loss: RowLoss, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the clipped sum, or without privacy the mean gradient, computed in one of the ways."""
    if way.startswith("plain"):
        parameters = trainable(module)
        found = torch.autograd.grad(loss(module, rows).mean(), list(parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    if way.startswith("one call"):
        draws = len(next(iter(rows.values()))) // PATIENTS
        total: dict[str, Tensor] = {}
        for start in range(0, PATIENTS * draws, draws):
            own = {name: tensor[start : start + draws] for name, tensor in rows.items()}
            for name, part in clip_and_sum(loop_gradients(module, loss, own, [draws]), CLIP_NORM).items():
                total[name] = total[name] + part if name in total else part
        return total
    if way == "vmap":
        return clip_and_sum(vmap_gradients(module, loss, rows, [1] * PATIENTS), CLIP_NORM)
    with _sampler(compute_conv_grad_sample if way == "stock" else conv3d_grad_sample):
        return clip_and_sum(hook_gradients(module, loss, rows, [1] * PATIENTS), CLIP_NORM)


@contextlib.contextmanager
def _sampler(of_convolutions: Callable[..., dict[Tensor, Tensor]]) -> Iterator[None]:
    """Let Opacus take this sampler for 3D convolutions inside the block."""
    before = GradSampleModule.GRAD_SAMPLERS[nn.Conv3d]
    GradSampleModule.GRAD_SAMPLERS[nn.Conv3d] = of_convolutions
    try:
        yield
    finally:
        GradSampleModule.GRAD_SAMPLERS[nn.Conv3d] = before


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
    words = [sys.executable, "-m", "experiments.private_cost", "--memory-of", network, way]
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


def private_cost_text(results: Mapping[str, Any]) -> str:
    """Return the figures as a table."""
    networks = results["networks"]
    rows = [[f"{way}, s", *(f"{found['seconds'][way]:.3f}" for found in networks.values())] for way in WAYS]
    rows += [
        ["fastest engine", *(found["fastest_engine"] for found in networks.values())],
        *(
            [title, *(f"{found[key]:.2f}" for found in networks.values())]
            for title, key in (
                ("fastest over plain", "fastest_over_plain"),
                ("fastest over stock", "fastest_over_stock"),
                ("in use over plain, 4 draws", "in_use_over_plain_4_draws"),
            )
        ),
        ["extra memory of the fastest, MB", *(f"{found['extra_mb']:.0f}" for found in networks.values())],
        ["extra memory of stock, MB", *(f"{found['stock_extra_mb']:.0f}" for found in networks.values())],
    ]
    threads = results["threads"]
    head = (
        f"Batch {results['batch']}, fastest of {results['repeats']} interleaved repeats, {threads} threads."
    )
    return f"{head}\n\n{markdown_table(['', *networks], rows)}"


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
