"""Label maps as numbers 1, 2, ... of named classes, and as channels of a volume.

A volume carries its label map in one channel per class, background first: 1 where the class is, -1 elsewhere.
So image and map lie in one range, and a codec sees both alike.

>>> labels = torch.tensor([[[0, 3, 8]]])
>>> classes = (LabelClass(name="gland", values=(3,)), LabelClass(name="lesion", values=(8, 9)))
>>> numbered(labels, classes)
tensor([[[0, 1, 2]]])
>>> torch.equal(from_channels(to_channels(numbered(labels, classes)[None], 3))[0], numbered(labels, classes))
True
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt
from torch import Tensor

from common.frozen import FrozenModel

LabelMaps = Int[Tensor, "batch x y z"]
LabelChannels = Float[Tensor, "batch class x y z"]


class LabelClass(FrozenModel):
    """One class of label maps.

    Attributes:
        name: What it is.
        values: That it has in the files; the first is written into synthetic maps.
    """

    name: str
    values: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


def numbered(stored: Int[Tensor, "*axes"], classes: Sequence[LabelClass]) -> Int[Tensor, "*axes"]:
    """Return 1 where the first class is, 2 where the second is, ...; all other values are background."""
    maps = torch.zeros_like(stored)
    for number, one in enumerate(classes, start=1):
        maps[torch.isin(stored, torch.tensor(one.values, device=stored.device))] = number
    return maps


def stored(maps: Int[Tensor, "*axes"], classes: Sequence[LabelClass]) -> Int[Tensor, "*axes"]:
    """Return the values of files for the numbers of classes: `numbered` takes them back."""
    values = torch.tensor([0, *(one.values[0] for one in classes)], device=maps.device)
    return values[maps]


def to_channels(maps: LabelMaps, num_classes: int) -> LabelChannels:
    """Return one channel per class, background included: 1 where it is, -1 elsewhere."""
    hot = torch.nn.functional.one_hot(maps.long(), num_classes)
    return hot.movedim(-1, 1).float() * 2 - 1


def from_channels(channels: LabelChannels) -> LabelMaps:
    """Return the class whose channel is largest at each voxel."""
    return channels.argmax(dim=1)
