"""Another contrast and brightness, as another scanner would give, for pretraining and fine-tuning alike."""

import torch

from common.shapes import VolumeBatch

_GAIN, _SHIFT = 0.1, 0.1  # standard deviations, of intensities in [-1, 1]


def other_contrast(volumes: VolumeBatch, generator: torch.Generator) -> VolumeBatch:
    """Return volumes with a gain and a shift each.

    Args:
        volumes: In [-1, 1].
        generator: Draws both; on the CPU.
    """
    shape = (len(volumes), 1, 1, 1, 1)
    gain = 1 + _GAIN * torch.randn(shape, generator=generator)
    shift = _SHIFT * torch.randn(shape, generator=generator)
    return volumes * gain.to(volumes.device) + shift.to(volumes.device)
