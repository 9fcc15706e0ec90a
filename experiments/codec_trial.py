"""One codec trained alone on some patients and measured on others: what the codec's tables are made of.

Not a federation: one optimizer loop over all given patients, with the rounds' boundaries kept (Adam
starts anew and dead codes are split every `STEPS_PER_ROUND` steps), so that it trains as a site would.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from client.batches import batches
from client.dataset import VolumeDataset
from client.site_config import Selection, SiteConfig
from common.codec.codebook import split_dead_codes_of
from common.codec.codec import Codec
from common.codec.config import CodecConfig
from common.codec.training import CodecTraining, initial_codec_state
from common.federation.config import TrainingConfig
from common.federation.learning_rate import learning_rate_at
from common.federation.seeds import seeded_generator
from common.metrics.reconstruction import (
    intensity_std_ratio,
    mean_over_patients,
    patient_means,
    psnr,
    psnr_over_global_mse,
)
from common.shapes import VolumeBatch
from common.volume.spec import VolumeSpec

SPEC = VolumeSpec(shape=(32, 48, 32), spacing_mm=(1, 1, 1))
SPLIT = Path(__file__).parent / "configs" / "splits" / "hippocampus.csv"
STEPS_PER_ROUND = 50
PART = 8  # volumes at a time, where no gradient is needed


class PatientVolumes(NamedTuple):
    """Volumes and the patient of each."""

    volumes: VolumeBatch
    patients: tuple[str, ...]


@dataclass(frozen=True)
class CodecFigures:
    """What is measured of a codec on patients it was not trained on.

    Attributes:
        psnr_over_global_mse: PSNR of the mean squared error over all voxels, in dB.
        psnr_mean_over_patients: Mean over patients of their volumes' PSNR, in dB.
        intensity_std_kept: Mean over patients of a reconstruction's deviation over the original's.
        perplexity: Exponential of the entropy of code use.
        codes_used: Codes that occur.
    """

    psnr_over_global_mse: float
    psnr_mean_over_patients: float
    intensity_std_kept: float
    perplexity: float
    codes_used: int


@contextmanager
def hippocampus(data: Path) -> Iterator[Callable[[tuple[str, ...]], PatientVolumes]]:
    """Give a function from parts of the committed split to their volumes."""
    with TemporaryDirectory() as cache:

        def volumes_of(parts: tuple[str, ...]) -> PatientVolumes:
            selection = Selection(part=parts)
            config = SiteConfig(name="trial", data=data, patients=SPLIT, select=selection, state=Path(cache))
            dataset = VolumeDataset.open(config, SPEC)
            return PatientVolumes(dataset.volumes(), dataset.patients)

        yield volumes_of


def drawn_batches(train: PatientVolumes, schedule: TrainingConfig, seed: int) -> list[Tensor]:
    """Return the indices of every step's volumes: the same for every codec of one seed."""
    generator = seeded_generator(seed, "batches")
    return list(batches(train.patients, schedule.batch_size, schedule.total_steps, generator))


def train_codec(
    config: CodecConfig, train: PatientVolumes, schedule: TrainingConfig, seed: int
) -> tuple[Codec, float]:
    """Return a codec trained on ``train``, in eval mode, and the seconds it took.

    Args:
        config: Architecture, quantizer and losses.
        train: What to learn from.
        schedule: Steps, batch size and learning rate.
        seed: Of initial values, batches and slices.
    """
    channels = train.volumes.shape[1]
    state = initial_codec_state(config, channels, seeded_generator(seed, "codec"))
    drawn, started = drawn_batches(train, schedule, seed), time.monotonic()
    for first in range(0, len(drawn), STEPS_PER_ROUND):
        training = CodecTraining(config, channels, state, torch.device("cpu"))
        for step, indices in enumerate(drawn[first : first + STEPS_PER_ROUND], start=first):
            rate = learning_rate_at(step, schedule)
            training.step(train.volumes[indices], step, rate, seeded_generator(seed, "step", step))
        state = split_dead_codes_of(training.state())
    seconds = time.monotonic() - started
    training.codec.load_state_dict(_of_codec(state))
    return training.codec.eval(), seconds


def measure(
    reconstruct: Callable[[VolumeBatch], VolumeBatch],
    indices: Callable[[VolumeBatch], Tensor],
    held_out: PatientVolumes,
) -> CodecFigures:
    """Return the figures of a codec given as two functions, so that a peer is measured alike."""
    original = held_out.volumes
    rebuilt = _in_parts(reconstruct, original).clamp(-1, 1)
    shares = torch.bincount(_in_parts(indices, original).flatten()).double()
    shares = shares[shares > 0] / shares.sum()
    return CodecFigures(
        psnr_over_global_mse=psnr_over_global_mse(rebuilt, original),
        psnr_mean_over_patients=mean_over_patients(psnr(rebuilt, original), held_out.patients),
        intensity_std_kept=mean_over_patients(intensity_std_ratio(rebuilt, original), held_out.patients),
        perplexity=math.exp(-float((shares * shares.log()).sum())),
        codes_used=len(shares),
    )


def psnr_by_patient(
    reconstruct: Callable[[VolumeBatch], VolumeBatch], held_out: PatientVolumes
) -> dict[str, float]:
    """Return each patient's mean PSNR."""
    rebuilt = _in_parts(reconstruct, held_out.volumes).clamp(-1, 1)
    return dict(patient_means(psnr(rebuilt, held_out.volumes), held_out.patients))


def indices_of(codec: Codec) -> Callable[[VolumeBatch], Tensor]:
    """Return the function from volumes to their code indices."""
    return lambda volumes: codec.quantize(codec.encode(volumes)).indices


@torch.inference_mode()
def _in_parts(function: Callable[[VolumeBatch], Tensor], volumes: VolumeBatch) -> Tensor:
    return torch.cat([function(part) for part in volumes.split(PART)])


def _of_codec(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "codec."
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
