"""What is measured of each arm, and the two differences that the comparison is about."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from client.dataset import VolumeDataset
from client.site_config import Compute, Selection, SiteConfig
from common.federation.seeds import seeded_generator
from common.metrics.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_mmd_difference,
    bootstrap_paired_difference,
)
from common.metrics.distribution import median_bandwidth
from common.metrics.features import EXTRACTORS, Standardizer, extract
from common.shapes import VolumeBatch
from common.study import Study
from experiments.baselines.train import TrainedArm
from experiments.evaluation import RealSets, evaluate_synthetic, reconstruction_by_patient
from experiments.synthetic_set import read_synthetic
from server.released_model import load_codec, released_model
from server.synthesis import synthesize

SEED = 0
METRICS = ("psnr", "ms_ssim", "intensity_std")
PatientValues = Mapping[str, float]


def test_datasets(study: Study, data: Path, split: Path, folder: Path) -> dict[str, VolumeDataset]:
    """Return the test patients of each site of the federated study."""
    return part_datasets(study, data, split, "test", folder)


def part_datasets(study: Study, data: Path, split: Path, part: str, folder: Path) -> dict[str, VolumeDataset]:
    """Return the patients of one part of a split, by site; caches lie in ``folder``."""
    return {
        site: VolumeDataset.open(
            SiteConfig(
                name=site,
                data=data,
                patients=split,
                select=Selection(site=site, part=(part,)),
                state=folder / part / site,
            ),
            study.volume,
        )
        for site in study.federation.sites
    }


def reconstruction_of(
    trained: TrainedArm, tests: Mapping[str, VolumeDataset], compute: Compute
) -> dict[str, dict[str, PatientValues]]:
    """Return metric -> site -> patient -> value of one arm's codec."""
    codec = load_codec(trained.arm.study, trained.state, torch.device(compute.device))
    by_site = {
        site: asdict(reconstruction_by_patient(codec, d, trained.arm.study)) for site, d in tests.items()
    }
    return {metric: {site: values[metric] for site, values in by_site.items()} for metric in METRICS}


def site_table(values: Mapping[str, PatientValues]) -> dict[str, dict[str, float]]:
    """Return each site's mean over patients with its interval."""
    generator = seeded_generator(SEED, "site means")
    return {site: as_numbers(bootstrap_mean(of_site, generator)) for site, of_site in values.items()}


def psnr_differences(
    first: Mapping[str, PatientValues], second: Mapping[str, PatientValues], sites: list[str]
) -> dict[str, dict[str, float]]:
    """Return the mean PSNR difference over each site's patients, paired by patient.

    One per site: over all patients together, a site that loses much could hide behind larger ones.
    """
    generator = seeded_generator(SEED, "differences")
    return {
        site: as_numbers(bootstrap_paired_difference(first[site], second[site], generator)) for site in sites
    }


def synthetic_of(trained: TrainedArm, num: int, compute: Compute, snap: bool) -> VolumeBatch:
    """Return ``num`` synthetic volumes of one arm, made on the first call.

    Args:
        trained: The arm.
        num: How many.
        compute: Device.
        snap: Decode the nearest codes of a sampled latent instead of the latent itself.
    """
    study = trained.arm.study
    folder = trained.run.path / ("baseline-snapped" if snap else "baseline-volumes")
    model = released_model(study, trained.state, torch.device(compute.device))
    sampler = study.diffusion.model.sampler.model_copy(update={"snap_to_codebook": snap})
    synthesize(model, folder, num, seed=SEED, sampler=sampler)
    return read_synthetic(folder, study)


def generation_of(volumes: VolumeBatch, real: RealSets, study: Study) -> dict[str, Any]:
    """Return the synthetic metrics of one arm."""
    return evaluate_synthetic(real, volumes, study, SEED)


def mmd_difference(first: VolumeBatch, second: VolumeBatch, real: RealSets) -> dict[str, dict[str, float]]:
    """Return MMD² of the first set minus that of the second, to all sites' test patients, per extractor."""
    result = {}
    for name, extractor in EXTRACTORS.items():
        raw = extract(extractor, real.reference)
        scale = Standardizer.fit(raw)
        test, one, other = (scale(extract(extractor, v)) for v in (real.test, first, second))
        bandwidth = median_bandwidth(scale(raw))
        generator = seeded_generator(SEED, "mmd differences")
        result[name] = as_numbers(bootstrap_mmd_difference(test, one, other, bandwidth, generator))
    return result


def as_numbers(interval: Interval) -> dict[str, float]:
    """Return an interval as plain numbers."""
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
