"""Encoder and decoder: all convolutions at the latent's resolution.

Both are a linear path plus a residual one that starts at zero:

    encode(x) = A u + g(u),  u = space_to_depth(x)        decode(z) = depth_to_space(B z + h(z))

Convolutions on blocks of 2x2x2 voxels as channels cost an eighth of those on voxels, and the linear
path means that nothing has to be learnt before the residual path is worth anything. Every operation
treats examples separately (GroupNorm, no batch statistics), and none has a buffer that moves.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.codec.config import NORM_GROUPS, CodecConfig
from common.codec.rearrange import depth_to_space, space_to_depth
from common.codec.transform import lowest_frequencies
from common.shapes import Latent, VolumeBatch


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(norm(x))))), whose last convolution starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(NORM_GROUPS, channels), channels)
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.second = _zeroed(nn.Conv3d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        inner: Tensor = self.second(functional.silu(self.first(functional.silu(self.norm(x)))))
        return x + inner


class Encoder(nn.Module):
    """Volume to latent.

    Args:
        config: Sizes.
        num_channels: Channels of a volume.
    """

    def __init__(self, config: CodecConfig, num_channels: int) -> None:
        super().__init__()
        self.factors = config.downsampling
        transform = lowest_frequencies(num_channels, config.downsampling, config.code_dim)
        self.linear = _linear(transform.rows / transform.scale)
        self.entry = nn.Conv3d(transform.rows.shape[1], config.channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_res_blocks)))
        self.exit = _zeroed(nn.Conv3d(config.channels, config.code_dim, 1))

    def forward(self, volume: VolumeBatch) -> Latent:
        """Return the latent before quantization."""
        blocks = space_to_depth(volume, self.factors)
        detail = self.exit(functional.silu(self.blocks(self.entry(blocks))))
        latent: Tensor = self.linear(blocks) + detail
        return latent


class Decoder(nn.Module):
    """Latent to volume.

    Args:
        config: Sizes.
        num_channels: Channels of a volume.
    """

    def __init__(self, config: CodecConfig, num_channels: int) -> None:
        super().__init__()
        self.factors = config.downsampling
        transform = lowest_frequencies(num_channels, config.downsampling, config.code_dim)
        self.linear = _linear(transform.rows.T * transform.scale)
        self.entry = nn.Conv3d(config.code_dim, config.channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.num_res_blocks)))
        self.exit = _zeroed(nn.Conv3d(config.channels, transform.rows.shape[1], 3, padding=1))

    def forward(self, latent: Latent) -> VolumeBatch:
        """Return the volume; not clamped, so that gradients reach every voxel."""
        detail = self.exit(functional.silu(self.blocks(self.entry(latent))))
        return depth_to_space(self.linear(latent) + detail, self.factors)


def _linear(matrix: Tensor) -> nn.Conv3d:
    """Return a 1x1x1 convolution that applies ``matrix`` [out, in]."""
    layer = nn.Conv3d(matrix.shape[1], matrix.shape[0], 1)
    with torch.no_grad():
        layer.weight.copy_(matrix[:, :, None, None, None])
        nn.init.zeros_(layer.bias) if layer.bias is not None else None
    return layer


def _zeroed(layer: nn.Conv3d) -> nn.Conv3d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
