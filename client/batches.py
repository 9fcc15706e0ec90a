"""Which volumes make up each step: patients in turn, one of a patient's volumes at a time.

A patient is the unit: one with three exams is drawn as often as one with a single exam.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def batches(
    patients: Sequence[str], batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield ``num_steps`` index tensors of ``batch_size`` volumes.

    Patients come in a random order, all of them before any again; a batch may span two such
    passes, so that every batch is full however few patients there are.

    Args:
        patients: The patient of each volume.
        batch_size: Volumes per batch.
        num_steps: Number of batches.
        generator: CPU generator of the round.
    """
    volumes_of: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        volumes_of.setdefault(patient, []).append(index)
    groups = [volumes_of[patient] for patient in sorted(volumes_of)]
    queue: list[int] = []
    for _ in range(num_steps):
        while len(queue) < batch_size:
            order = torch.randperm(len(groups), generator=generator).tolist()
            queue.extend(_one_of(groups[patient], generator) for patient in order)
        yield torch.tensor(queue[:batch_size])
        queue = queue[batch_size:]


def _one_of(volumes: Sequence[int], generator: torch.Generator) -> int:
    return volumes[int(torch.randint(len(volumes), (1,), generator=generator))]
