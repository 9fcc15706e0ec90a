"""The primary metrics of one model on patients whom it never saw. Smaller is better in all of them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from client.dataset import VolumeDataset
from client.latent_store import encode_all
from common.diffusion.objective import Draws, make_objective
from common.diffusion.sampling import sample_latents
from common.federation.seeds import derive_seed, seeded_generator
from common.metrics.distribution import median_bandwidth, mmd_squared
from common.metrics.features import EXTRACTORS, Standardizer, extract
from common.metrics.reconstruction import patient_means
from common.shapes import VolumeBatch
from experiments.evaluation import RealSets, real_sets
from experiments.privacy_utility.cohort import Replicate
from experiments.privacy_utility.settings import Settings
from server.released_model import ReleasedModel

CPU = torch.device("cpu")
SEED = 0  # of draws that all arms share: differences between arms are paired


def measured_on(replicate: Replicate, folder: Path) -> tuple[RealSets, list[VolumeDataset]]:
    """Return the volumes that synthetic ones are held against, and the test patients' datasets."""
    training = [g.dataset(replicate.study, folder / name) for name, g in replicate.training.items()]
    test = [g.dataset(replicate.study, folder / g.site) for g in replicate.test]
    num = min(sum(d.num_patients for d in test), sum(d.num_patients for d in training))
    return real_sets(training, test, num, SEED), test


@torch.no_grad()
def denoising_loss(
    model: ReleasedModel, datasets: Sequence[VolumeDataset], settings: Settings
) -> dict[str, float]:
    """Return the mean loss of each test patient over fixed times, evenly spread, and fixed noises."""
    objective = make_objective(model.study.diffusion.model)
    num = settings.loss_draws
    times = (torch.arange(num) + 0.5) / num
    losses: dict[str, float] = {}
    for dataset in datasets:
        latents = encode_all(model.codec, dataset.volumes(), CPU)
        generator = seeded_generator(SEED, "loss draws")
        of_exam = []
        for latent in latents:
            eps = torch.randn((num, *latent.shape), generator=generator)
            draws = Draws(times, eps, torch.zeros(num, dtype=torch.bool))
            rows = latent.expand(num, *latent.shape)
            of_exam.append(objective.loss_at(model.denoiser, rows, None, draws).mean())
        losses |= patient_means(torch.stack(of_exam), dataset.patients)
    return losses


def generation_distances(
    model: ReleasedModel, real: RealSets, seed: int, settings: Settings
) -> dict[str, float]:
    """Return MMD² to the test patients by each extractor, the mean over several synthetic sets."""
    num = len(real.test)
    synthetic = sampled(model, settings.sets * num, seed)
    result = {}
    for name, extractor in EXTRACTORS.items():
        raw = extract(extractor, real.reference)
        scale, test = Standardizer.fit(raw), extract(extractor, real.test)
        bandwidth = median_bandwidth(scale(raw))
        made = scale(extract(extractor, synthetic))
        values = [mmd_squared(scale(test), part, bandwidth) for part in made.split(num)]
        result[f"MMD² {name}"] = sum(values) / len(values)
    return result


def floors(real: RealSets) -> dict[str, float]:
    """Return MMD² of as many training patients to the test patients: real against real."""
    result = {}
    for name, extractor in EXTRACTORS.items():
        raw = extract(extractor, real.reference)
        scale = Standardizer.fit(raw)
        first, second = (scale(extract(extractor, v)) for v in (real.training, real.test))
        result[f"MMD² {name}"] = mmd_squared(first, second, median_bandwidth(scale(raw)))
    return result


@torch.inference_mode()
def sampled(model: ReleasedModel, num: int, seed: int) -> VolumeBatch:
    """Return synthetic volumes in memory; volume i has the same noise in every arm."""
    study = model.study
    shape = (study.codec.model.code_dim, *study.latent_shape)
    first = derive_seed("privacy utility", seed) % (1 << 31)
    latents = sample_latents(
        model.denoiser,
        study.diffusion.model,
        shape,
        labels=None,
        seeds=[first + index for index in range(num)],
        batch_size=8,
        device=CPU,
    )
    snap = study.diffusion.model.sampler.snap_to_codebook
    decoded = [
        model.codec.decode(model.scale.denormalize(latent), snap=snap).clamp(-1, 1) for latent in latents
    ]
    return torch.cat(decoded)
