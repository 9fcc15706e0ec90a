"""Space to depth and back: blocks of voxels become channels, nothing is lost."""

from torch import Tensor

from common.codec.config import Factors


def space_to_depth(volume: Tensor, factors: Factors) -> Tensor:
    """Return [batch, channel·a·b·c, x/a, y/b, z/c]; channels vary slowest, then x, y, z in the block."""
    batch, channels, x, y, z = volume.shape
    a, b, c = factors
    blocks = volume.reshape(batch, channels, x // a, a, y // b, b, z // c, c)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * a * b * c, x // a, y // b, z // c)


def depth_to_space(blocks: Tensor, factors: Factors) -> Tensor:
    """Return the inverse of `space_to_depth`."""
    batch, channels, x, y, z = blocks.shape
    a, b, c = factors
    volume = blocks.reshape(batch, channels // (a * b * c), a, b, c, x, y, z)
    return volume.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, x * a, y * b, z * c)
