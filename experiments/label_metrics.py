"""How faithful label maps are: those that the codec gives back, and those of synthetic volumes.

A class of a synthetic set is described by what a person would count: how large it is, and in how many pieces.
Beside it stands the same of real maps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from client.dataset import VolumeDataset
from common.codec.codec import Codec
from common.federation.seeds import seeded_generator
from common.metrics.bootstrap import bootstrap_mean
from common.metrics.reconstruction import patient_means
from common.study import Study
from common.volume.labels import LabelMaps, from_channels, numbered
from experiments.evaluation import reconstruct


def evaluate_rebuilt_labels(
    codec: Codec, dataset: VolumeDataset, study: Study, seed: int = 0
) -> dict[str, Any]:
    """Return the Dice of each class between label maps before and after the codec, as means over patients."""
    classes = study.volume.labels
    true = numbered(dataset.label_maps(), classes)
    rebuilt = rebuilt_labels(codec, dataset)
    generator = seeded_generator(seed, "label intervals")
    found = {}
    for number, one in enumerate(classes, start=1):
        scores = dice(rebuilt == number, true == number)
        there = scores.isfinite()
        patients = [patient for patient, has in zip(dataset.patients, there.tolist(), strict=True) if has]
        if patients:
            interval = bootstrap_mean(patient_means(scores[there], patients), generator)
            ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
            found[one.name] = {"label_dice": ends}
    return found


def rebuilt_labels(codec: Codec, dataset: VolumeDataset) -> LabelMaps:
    """Return the label maps that are left after the codec, on the CPU."""
    return from_channels(reconstruct(codec, dataset.codec_volumes())[:, dataset.spec.num_channels :])


def dice(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the Dice of each pair of masks [n, x, y, z]; NaN where both are empty."""
    both = (first & second).flatten(1).sum(1)
    return 2 * both / (first.flatten(1).sum(1) + second.flatten(1).sum(1))


def compare_labels(
    synthetic: LabelMaps, real: Sequence[VolumeDataset], study: Study
) -> dict[str, dict[str, float]]:
    """Return what each class of synthetic maps is like, beside the same of real maps as its floor."""
    classes = study.volume.labels
    maps = numbered(torch.cat([dataset.label_maps() for dataset in real]), classes)
    spacing = study.volume.written_spacing_mm
    found = {}
    for number, one in enumerate(classes, start=1):
        made, there = (described(each == number, spacing) for each in (synthetic, maps))
        found[one.name] = made | {f"{name}_floor": value for name, value in there.items()}
    return found


def described(masks: torch.Tensor, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Return size and pieces of a class.

    Args:
        masks: Where it is, [n, x, y, z].
        spacing_mm: Between voxels.

    Returns:
        Mean and standard deviation of its volume in millilitres, mean number of pieces connected by faces,
        and the share of maps that lack it.
    """
    millilitre = float(np.prod(spacing_mm)) / 1000
    volumes = masks.flatten(1).sum(1).double() * millilitre
    pieces = [ndimage.label(mask.numpy())[1] for mask in masks]
    return {
        "volume_ml": float(volumes.mean()),
        "volume_sd_ml": float(volumes.std()) if len(volumes) > 1 else 0.0,
        "pieces": float(np.mean(pieces)),
        "missing": float((volumes == 0).double().mean()),
    }
