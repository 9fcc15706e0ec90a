"""Seeded, batched, resumable sampling of latents.

What is guaranteed: each volume's randomness comes from a CPU generator of its own, seeded by its own
seed, and the network is always called on exactly ``batch_size`` rows (the last batch is filled up).
So the noise of a volume depends on its seed only, on every device; and on one device with one
``batch_size`` the latent of a seed has the same bits wherever in whichever batch it is drawn, which
makes a resumed run equal to an uninterrupted one. Another ``batch_size``, number of threads or
device may change the last digits: kernels sum in another order.
"""

from collections.abc import Iterator, Sequence

import torch

from common.diffusion.ancestral import sample_ddim, sample_ddpm
from common.diffusion.config import DiffusionConfig
from common.diffusion.denoiser import Denoiser, guided
from common.diffusion.objective import variance_preserving_path
from common.diffusion.ode import sample_euler, sample_heun
from common.shapes import Labels, LatentLike


class SeededNoise:
    """Standard normal noise whose row i comes from a generator seeded by ``seeds[i]``.

    PyTorch's CPU generator uses the lower 32 bits of a seed, so seeds must differ there.

    Args:
        seeds: One seed per row.
        shape: Shape of a row.
        device: Where the noise is wanted; it is drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = tuple(shape)
        self._device = device

    def __call__(self) -> LatentLike:
        """Return the next noise of every row."""
        rows = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(rows).to(self._device)


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    config: DiffusionConfig,
    latent_shape: Sequence[int],
    labels: Sequence[int] | None,
    seeds: Sequence[int],
    batch_size: int,
    device: torch.device,
) -> Iterator[LatentLike]:
    """Yield batches of clean, still normalised latents, one row per seed, in the order of ``seeds``.

    To resume, pass the seeds (and labels) that are still missing.

    Args:
        denoiser: The network, on ``device``.
        config: Objective, schedule and sampler.
        latent_shape: Channels and positions of one latent.
        labels: Class per seed, or ``None`` for unconditional sampling.
        seeds: One per latent; equal seeds give equal latents.
        batch_size: Rows of a network call (twice that under guidance); at least 2 on the CPU, where
            a batch of one is slow.
        device: Where to compute.
    """
    if labels is not None and len(labels) != len(seeds):
        raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds")
    steered = guided(denoiser, config.sampler.guidance_scale)
    for start in range(0, len(seeds), batch_size):
        num = min(batch_size, len(seeds) - start)
        draw_noise = SeededNoise(_filled(seeds[start : start + num], batch_size), latent_shape, device)
        batch_labels = None
        if labels is not None:
            batch_labels = torch.tensor(_filled(labels[start : start + num], batch_size), device=device)
        yield _sample(steered, config, draw_noise, batch_labels)[:num]


def _sample(
    denoiser: Denoiser, config: DiffusionConfig, draw_noise: SeededNoise, labels: Labels | None
) -> LatentLike:
    """Return one batch from the configured sampler; its first noise is the start."""
    sampler, start = config.sampler, draw_noise()
    match sampler.kind:
        case "euler":
            return sample_euler(denoiser, start, labels, sampler.num_steps)
        case "heun":
            return sample_heun(denoiser, start, labels, sampler.num_steps)
        case "ddpm":
            path = variance_preserving_path(config)
            return sample_ddpm(denoiser, path, start, labels, sampler.num_steps, draw_noise)
        case "ddim":
            path = variance_preserving_path(config)
            return sample_ddim(denoiser, path, start, labels, sampler.num_steps, draw_noise, sampler.eta)


def _filled(values: Sequence[int], length: int) -> list[int]:
    """Return ``values`` with the last one repeated up to ``length``."""
    return [*values, *[values[-1]] * (length - len(values))]
