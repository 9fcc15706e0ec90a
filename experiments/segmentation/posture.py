"""Another posture and size, as another patient would have, for pretraining and fine-tuning.

A posture is a random affine map: turns about the three axes, a scale of each, a shift. It is made in
coordinates in which every edge of a volume reaches from -1 to 1, so a turn also shears a volume that is no
cube; that keeps a flat stack of slices from being turned out of itself.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from common.shapes import VolumeBatch
from common.volume.intensity import BACKGROUND
from common.volume.labels import LabelMaps

_TURN, _SCALE, _SHIFT = math.radians(15), 0.15, 0.1  # at most, each way
Places = Float[Tensor, "batch x y z 3"]


def other_postures(shape: torch.Size, generator: torch.Generator) -> Places:
    """Return where every voxel of a posed volume lies in the volume itself, z first, from -1 to 1.

    Args:
        shape: Of the batch of volumes, with channels.
        generator: Draws one posture for each volume; on the CPU.
    """
    num = shape[0]
    turns, scales, shifts = (
        most * (2 * torch.rand(num, 3, generator=generator) - 1) for most in (_TURN, _SCALE, _SHIFT)
    )
    linear = torch.eye(3).expand(num, 3, 3)
    for axis in range(3):
        linear = linear @ _turned(turns[:, axis], axis)
    maps = torch.cat([linear * (1 + scales)[:, None, :], shifts[:, :, None]], dim=2)
    return functional.affine_grid(maps, list(shape), align_corners=False)


def posed(volumes: VolumeBatch, places: Places) -> VolumeBatch:
    """Return the volumes in other postures, linearly interpolated, background where they have nothing.

    Args:
        volumes: In [-1, 1].
        places: See `other_postures`.
    """
    above = volumes - BACKGROUND  # what lies outside is filled with zeros
    return functional.grid_sample(above, places.to(volumes.device), align_corners=False) + BACKGROUND


def posed_labels(label_maps: LabelMaps, places: Places) -> LabelMaps:
    """Return the label maps in the same postures, nearest neighbours, background where they have nothing."""
    values = label_maps[:, None].float()
    nearest = functional.grid_sample(
        values, places.to(label_maps.device), mode="nearest", align_corners=False
    )
    return nearest[:, 0].to(label_maps.dtype)


def _turned(angles: Float[Tensor, " batch"], axis: int) -> Float[Tensor, "batch 3 3"]:
    first, second = (other for other in range(3) if other != axis)
    found = torch.eye(3).repeat(len(angles), 1, 1)
    found[:, first, first] = found[:, second, second] = angles.cos()
    found[:, first, second], found[:, second, first] = -angles.sin(), angles.sin()
    return found
