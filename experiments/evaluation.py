"""How faithful a model's reconstructions and synthetic volumes are, on patients of one's choice.

Every number about sets of volumes stands beside its floor: the same number between two sets of real
patients, training against test, with the same n and one volume per patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from client.dataset import VolumeDataset
from common.codec.codec import Codec
from common.errors import MetricError
from common.federation.seeds import seeded_generator
from common.metrics.bootstrap import bootstrap_mean, bootstrap_mmd
from common.metrics.distribution import (
    PrincipalComponents,
    frechet_distance,
    mean_pairwise_ms_ssim,
    median_bandwidth,
    mmd_squared,
    one_per_patient,
    subsample,
)
from common.metrics.features import EXTRACTORS, Extractor, Standardizer, extract
from common.metrics.reconstruction import (
    SMALLEST_SIDE,
    SliceAxis,
    intensity_std_ratio,
    ms_ssim,
    patient_means,
    psnr,
    psnr_over_global_mse,
)
from common.metrics.texture import texture_ratio
from common.shapes import VolumeBatch
from common.study import Study

BATCH = 8
NUM_PAIRS = 100


def slice_axis_of(study: Study) -> SliceAxis | None:
    """Return the axis with too few slices for a 3D MS-SSIM, or None if there is none."""
    sizes = dict(zip(("x", "y", "z"), study.volume.shape, strict=True))
    thin = [axis for axis, size in sizes.items() if size < SMALLEST_SIDE]
    if len(thin) > 1:
        raise MetricError(
            f"volume.shape {study.volume.shape} is below {SMALLEST_SIDE} voxels along {' and '.join(thin)}",
            "MS-SSIM of three scales needs larger volumes",
        )
    return thin[0] if thin else None  # type: ignore[return-value]


@torch.inference_mode()
def reconstruct(codec: Codec, volumes: VolumeBatch) -> VolumeBatch:
    """Return what is left of ``volumes`` after the codec, on the CPU.

    Not clamped: a voxel is of the class whose channel is largest, and clamped channels tie.
    """
    device = next(codec.parameters()).device
    return torch.cat([codec.reconstruct(batch.to(device)).cpu() for batch in torch.split(volumes, BATCH)])


def rebuilt_images(codec: Codec, dataset: VolumeDataset) -> VolumeBatch:
    """Return a dataset's images after the codec, which may see their label maps too; within [-1, 1]."""
    return reconstruct(codec, dataset.codec_volumes())[:, : dataset.spec.num_channels].clamp(-1, 1)


@dataclass(frozen=True)
class ReconstructionByPatient:
    """Each patient's mean over their volumes.

    Attributes:
        psnr: dB, from each volume's own error, data range 2.
        ms_ssim: Multi-scale structural similarity.
        intensity_std: Standard deviation of the reconstruction over that of the original.
    """

    psnr: Mapping[str, float]
    ms_ssim: Mapping[str, float]
    intensity_std: Mapping[str, float]


def reconstruction_by_patient(codec: Codec, dataset: VolumeDataset, study: Study) -> ReconstructionByPatient:
    """Return the codec's fidelity on every patient of ``dataset``."""
    original = dataset.volumes()
    return _by_patient(rebuilt_images(codec, dataset), original, dataset, study)


def _by_patient(
    rebuilt: VolumeBatch, original: VolumeBatch, dataset: VolumeDataset, study: Study
) -> ReconstructionByPatient:
    return ReconstructionByPatient(
        psnr=patient_means(psnr(rebuilt, original), dataset.patients),
        ms_ssim=patient_means(ms_ssim(rebuilt, original, slice_axis_of(study)), dataset.patients),
        intensity_std=patient_means(intensity_std_ratio(rebuilt, original), dataset.patients),
    )


def evaluate_reconstruction(
    codec: Codec, dataset: VolumeDataset, study: Study, seed: int = 0
) -> dict[str, Any]:
    """Return reconstruction metrics as means over patients with 95 % intervals, and texture kept."""
    original, rebuilt = dataset.volumes(), rebuilt_images(codec, dataset)
    by_patient = asdict(_by_patient(rebuilt, original, dataset, study))
    generator = seeded_generator(seed, "reconstruction intervals")
    return {
        "patients": dataset.num_patients,
        "volumes": len(dataset.exams),
        **{name: _interval(bootstrap_mean(values, generator)) for name, values in by_patient.items()},
        "psnr_over_global_mse": psnr_over_global_mse(rebuilt, original),
        "texture": asdict(texture_ratio(rebuilt, original)),
    }


@dataclass(frozen=True)
class RealSets:
    """Real volumes that synthetic ones are held against, one per patient, equally many.

    Attributes:
        reference: Every patient that the generator learned from; they set scales and bandwidth.
        training: As many of them as there are test patients: the floor.
        test: Patients that it never saw.
    """

    reference: VolumeBatch
    training: VolumeBatch
    test: VolumeBatch


def real_sets(
    training: Sequence[VolumeDataset], test: Sequence[VolumeDataset], num: int, seed: int = 0
) -> RealSets:
    """Return ``num`` training and ``num`` test patients, one volume each.

    Args:
        training: One dataset per site.
        test: One dataset per site.
        num: Patients of each kind.
        seed: Draws the patients and their volumes.

    Raises:
        MetricError: There are fewer patients.
    """
    everyone = sum(dataset.num_patients for dataset in training)
    return RealSets(
        reference=one_volume_per_patient(training, everyone, seed),
        training=one_volume_per_patient(training, num, seed),
        test=one_volume_per_patient(test, num, seed),
    )


def one_volume_per_patient(datasets: Sequence[VolumeDataset], num: int, seed: int) -> VolumeBatch:
    """Return one volume of each of ``num`` patients out of all datasets, drawn by ``seed``."""
    generator = seeded_generator(seed, "one per patient")
    patients = [patient for dataset in datasets for patient in dataset.patients]
    chosen = one_per_patient(patients, generator)
    kept = chosen[subsample(len(chosen), num, generator)]
    return torch.cat([dataset.volumes() for dataset in datasets])[kept]


def evaluate_synthetic(real: RealSets, synthetic: VolumeBatch, study: Study, seed: int = 0) -> dict[str, Any]:
    """Return distances of synthetic to test volumes, each beside the floor of real against real.

    Args:
        real: Equally many training and test volumes.
        synthetic: At least as many synthetic volumes; the first ones are used.
        study: Gives the slice axis.
        seed: Draws pairs and resamples.

    Raises:
        MetricError: Too few synthetic volumes.
    """
    num = len(real.test)
    if len(synthetic) < num:
        raise MetricError(
            f"{len(synthetic)} synthetic volumes for {num} test patients", f"synthesize at least {num}"
        )
    synthetic = synthetic[:num]
    axis = slice_axis_of(study)
    floor = texture_ratio(real.training, real.test)
    return {
        "n": num,
        "distances": {
            name: _distances(extractor, real, synthetic, seed) for name, extractor in EXTRACTORS.items()
        },
        "pairwise_ms_ssim": {
            "synthetic": _diversity(synthetic, axis, seed),
            "real": _diversity(real.test, axis, seed),
        },
        "texture": {
            **asdict(texture_ratio(synthetic, real.test)),
            "contrast_floor": floor.contrast,
            "high_frequency_floor": floor.high_frequency,
        },
    }


def _distances(extractor: Extractor, real: RealSets, synthetic: VolumeBatch, seed: int) -> dict[str, Any]:
    raw = extract(extractor, real.reference)
    scale = Standardizer.fit(raw)
    bandwidth = median_bandwidth(scale(raw))
    components = PrincipalComponents.fit(scale(raw))
    training, test, made = (scale(extract(extractor, v)) for v in (real.training, real.test, synthetic))
    generator = seeded_generator(seed, "synthetic intervals")
    return {
        "mmd": _interval(bootstrap_mmd(test, made, bandwidth, generator)),
        "mmd_floor": mmd_squared(test, training, bandwidth),
        "frechet": frechet_distance(components(test), components(made)),
        "frechet_floor": frechet_distance(components(test), components(training)),
    }


def _diversity(volumes: VolumeBatch, axis: SliceAxis | None, seed: int) -> float:
    return mean_pairwise_ms_ssim(volumes, NUM_PAIRS, seeded_generator(seed, "pairs"), axis)


def _interval(interval: Any) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
