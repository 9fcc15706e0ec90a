"""Volumes with their label maps."""

from dataclasses import dataclass

import torch

from common.shapes import VolumeBatch
from common.volume.labels import LabelMaps


@dataclass(frozen=True)
class Pairs:
    """Volumes and what is to be found in them.

    Attributes:
        volumes: In [-1, 1], on the CPU.
        label_maps: 0 is background.
    """

    volumes: VolumeBatch
    label_maps: LabelMaps

    def __len__(self) -> int:
        return len(self.volumes)

    def repeated(self, times: int) -> "Pairs":
        """Return them as often as that, so that each is drawn that often."""
        return Pairs(self.volumes.repeat(times, 1, 1, 1, 1), self.label_maps.repeat(times, 1, 1, 1))

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(torch.cat([self.volumes, other.volumes]), torch.cat([self.label_maps, other.label_maps]))
