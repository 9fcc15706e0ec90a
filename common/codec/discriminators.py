"""Patch discriminators on slices and on volumes (Isola et al. 2017; Medical Diffusion's pair of them).

Both return the features of every layer and, last, the logits of every patch. GroupNorm, not BatchNorm:
one patient's volume must not move another's score, nor leave statistics behind.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.codec.config import NORM_GROUPS, DiscriminatorConfig
from common.initialisation import initialised_from


class PatchDiscriminator(nn.Module):
    """Convolutions that end in one logit per patch.

    Args:
        in_channels: Channels of what is judged.
        channels: Width of the first layer; it doubles with every layer.
        strides: Strides of each strided layer per axis: two for slices, three for volumes.
        num_layers: Strided layers.
    """

    def __init__(self, in_channels: int, channels: int, strides: tuple[int, ...], num_layers: int) -> None:
        super().__init__()
        widths = [in_channels, *(channels * 2**index for index in range(num_layers))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                _convolution(before, after, strides),
                nn.GroupNorm(min(NORM_GROUPS, after), after) if index else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for index, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.logits = _convolution(widths[-1], 1, (1,) * len(strides))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return each layer's features, and the logits as the last."""
        features = []
        for layer in self.layers:
            images = layer(images)
            features.append(images)
        return [*features, self.logits(images)]


def make_discriminators(
    config: DiscriminatorConfig, num_channels: int, generator: torch.Generator
) -> tuple[PatchDiscriminator, PatchDiscriminator]:
    """Return the slice and the volume discriminator."""
    with initialised_from(generator):
        return (
            PatchDiscriminator(num_channels, config.channels, (2, 2), config.num_layers),
            PatchDiscriminator(num_channels, config.channels, config.volume_strides, config.num_layers),
        )


def take_slices(volume: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Return one slice of each volume: [batch, channel, ...] normal to ``axis`` (0, 1, 2 for x, y, z)."""
    moved = volume.movedim(2 + axis, 1)
    return moved[torch.arange(len(volume), device=volume.device), positions.to(volume.device)]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the hinge loss of each example (Lim & Ye 2017): ½ relu(1 - D(x)) + ½ relu(1 + D(x̂))."""
    real, fake = functional.relu(1 - real_logits), functional.relu(1 + fake_logits)
    return 0.5 * (real.flatten(1).mean(dim=1) + fake.flatten(1).mean(dim=1))


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return -D(x̂), averaged over the patches of each example."""
    return -fake_logits.flatten(1).mean(dim=1)


def feature_distance(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Return the L1 distance of each example's features, averaged over layers (Wang et al. 2018, Eq. 4)."""
    distances = [
        (a.detach() - b).abs().flatten(1).mean(dim=1) for a, b in zip(real[:-1], fake[:-1], strict=True)
    ]
    return torch.stack(distances).mean(dim=0)


def _convolution(before: int, after: int, strides: tuple[int, ...]) -> nn.Module:
    """Return a convolution with kernel 4 along strided axes and 3 along the others."""
    kernels = tuple(4 if stride > 1 else 3 for stride in strides)
    kind = nn.Conv2d if len(strides) == 2 else nn.Conv3d
    return kind(before, after, kernels, stride=strides, padding=1)  # type: ignore[arg-type]
