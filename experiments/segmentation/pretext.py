"""What a network learns from volumes without labels: the three tasks of Tang et al. (CVPR 2022, Section 3).

Two views are made of every volume. Each is turned by a multiple of 90 degrees and loses cuboids. From a view
the network restores what was lost (mean absolute error where it was lost), says how far the view was turned
(cross-entropy), and has features nearer to those of the volume's other view than to anybody else's (NT-Xent).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from monai.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError
from common.frozen import FrozenModel
from common.shapes import VolumeBatch
from common.volume.intensity import BACKGROUND
from experiments.segmentation.network import SegmentationNetwork

NUM_TURNS = 4


class PretextConfig(FrozenModel):
    """The tasks.

    Attributes:
        block: Edge of a cuboid in voxels.
        masked_share: Part of all cuboids that a view loses.
        rotation_weight: Of the cross-entropy.
        contrast_weight: Of NT-Xent.
        temperature: Of NT-Xent.
        embedding: Features that are compared.
    """

    block: int = 8
    masked_share: float = 0.6
    rotation_weight: float = 0.1
    contrast_weight: float = 0.1
    temperature: float = 0.5
    embedding: int = 64


@dataclass(frozen=True)
class Views:
    """What is shown of a batch, and what was done to it.

    Attributes:
        shown: The turned volumes with what is lost.
        whole: The turned volumes.
        lost: Where ``shown`` lacks something.
        turns: Quarter turns of each.
    """

    shown: VolumeBatch
    whole: VolumeBatch
    lost: Bool[Tensor, "batch 1 x y z"]
    turns: Int[Tensor, " batch"]


def make_views(volumes: VolumeBatch, config: PretextConfig, generator: torch.Generator) -> Views:
    """Return one view of each volume.

    Args:
        volumes: In [-1, 1].
        config: The tasks.
        generator: Draws turns and cuboids; on the CPU.

    Raises:
        ConfigError: No two axes have the same length, so a turned volume would have another shape.
    """
    turns = torch.randint(NUM_TURNS, (len(volumes),), generator=generator)
    plane = turning_plane(volumes.shape[-3:])
    whole = torch.stack([v.rot90(int(t), plane) for v, t in zip(volumes, turns, strict=True)])
    grid = [-(-size // config.block) for size in volumes.shape[-3:]]
    cuboids = torch.rand((len(volumes), 1, *grid), generator=generator) < config.masked_share
    for axis in (2, 3, 4):
        cuboids = cuboids.repeat_interleave(config.block, dim=axis)
    x, y, z = volumes.shape[-3:]
    lost = cuboids[..., :x, :y, :z].to(volumes.device)
    return Views(whole.masked_fill(lost, BACKGROUND), whole, lost, turns.to(volumes.device))


def turning_plane(shape: torch.Size) -> tuple[int, int]:
    """Return the first two axes of the same length, as axes of a volume with channels.

    Raises:
        ConfigError: There are none.
    """
    for first, second in ((0, 1), (0, 2), (1, 2)):
        if shape[first] == shape[second]:
            return first + 1, second + 1
    raise ConfigError(
        f"volumes of {' x '.join(map(str, shape))} voxels change shape when they are turned",
        "pretrain on volumes with two axes of the same length",
    )


class PretextHeads(nn.Module):
    """What reads turns and embeddings from a network's features; left behind after pretraining.

    Args:
        num_features: Of the network.
        config: The tasks.
    """

    def __init__(self, num_features: int, config: PretextConfig) -> None:
        super().__init__()
        self.turns = nn.Linear(num_features, NUM_TURNS)
        self.embedding = nn.Linear(num_features, config.embedding)


@dataclass(frozen=True)
class PretextLosses:
    """The losses of one batch, scalars.

    Attributes:
        inpainting: Mean absolute error where something was lost.
        rotation: Cross-entropy.
        contrast: NT-Xent; 0 for a batch of one, which has nobody to be told from.
    """

    inpainting: Float[Tensor, ""]
    rotation: Float[Tensor, ""]
    contrast: Float[Tensor, ""]

    def total(self, config: PretextConfig) -> Float[Tensor, ""]:
        """Return their weighted sum."""
        return (
            self.inpainting + config.rotation_weight * self.rotation + config.contrast_weight * self.contrast
        )


def pretext_losses(
    network: SegmentationNetwork,
    heads: PretextHeads,
    volumes: VolumeBatch,
    config: PretextConfig,
    generator: torch.Generator,
) -> PretextLosses:
    """Return the losses on two views of each volume.

    Args:
        network: With as many outputs as the volumes have channels.
        heads: Of the network.
        volumes: In [-1, 1], on the network's device.
        config: The tasks.
        generator: See `make_views`.
    """
    views = make_views(torch.cat([volumes, volumes]), config, generator)
    restored, features = network(views.shown)
    lost = views.lost.expand_as(restored)
    error = (restored - views.whole).abs()
    first, second = heads.embedding(features).chunk(2)
    contrast = error.new_zeros(())
    if len(volumes) > 1:
        contrast = ContrastiveLoss(temperature=config.temperature)(first, second)
    return PretextLosses(
        inpainting=(error * lost).sum() / lost.sum().clamp_min(1),
        rotation=functional.cross_entropy(heads.turns(features), views.turns),
        contrast=contrast,
    )
