"""What a network learns without labels: the tasks of Tang et al. (CVPR 2022, Section 3), and one more.

Views are made of every volume. Each has another posture and contrast, may be turned by a multiple of 90
degrees, and loses cuboids to noise of its own mean and deviation, so that the statistics of layers stay those
of volumes. From a view the network restores what was lost (mean absolute error where it was lost), says how
far the view was turned (cross-entropy), and has features nearer to those of the volume's other view than to
anybody else's (NT-Xent). The fourth task is ours: for every voxel of the view it says where in the volume it
lies (mean absolute error, in half edges), for which anatomy helps, since postures differ. Its
kin: Lei et al. (MICCAI 2020), who regress the position of one patch relative to another. Part of it needs no
anatomy: a network sees the view's edges, and the background that a posture brings in; on noise alone the
error is as small.
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
from experiments.segmentation.contrast import other_contrast
from experiments.segmentation.network import SegmentationNetwork
from experiments.segmentation.posture import other_postures, posed

NUM_TURNS, NUM_AXES = 4, 3


def num_outputs(num_channels: int) -> int:
    """Return how many outputs a network needs to restore volumes and to say where each voxel lies."""
    return num_channels + NUM_AXES


class PretextConfig(FrozenModel):
    """The tasks.

    Attributes:
        block: Edge of a cuboid in voxels.
        masked_share: Part of all cuboids that a view loses.
        turned_share: Part of the views that are turned; the others stand as they will in fine-tuning.
        position_weight: Of the error of places.
        rotation_weight: Of the cross-entropy.
        contrast_weight: Of NT-Xent; at 0 a volume has one view instead of two.
        temperature: Of NT-Xent.
        embedding: Features that are compared.
    """

    block: int = 8
    masked_share: float = 0.3
    turned_share: float = 0.3
    position_weight: float = 1.0
    rotation_weight: float = 0.1
    contrast_weight: float = 0.1
    temperature: float = 0.5
    embedding: int = 64


@dataclass(frozen=True)
class Views:
    """What is shown of a batch, and what was done to it.

    Attributes:
        shown: The posed and turned volumes in another contrast, with noise for what is lost.
        whole: The posed and turned volumes.
        lost: Where ``shown`` lacks something.
        places: Where each voxel lies in the volume that the view was made of, from -1 to 1 inside.
        turns: Quarter turns of each.
    """

    shown: VolumeBatch
    whole: VolumeBatch
    lost: Bool[Tensor, "batch 1 x y z"]
    places: Float[Tensor, "batch 3 x y z"]
    turns: Int[Tensor, " batch"]


def make_views(volumes: VolumeBatch, config: PretextConfig, generator: torch.Generator) -> Views:
    """Return one view of each volume.

    Args:
        volumes: In [-1, 1].
        config: The tasks.
        generator: Draws postures, turns, cuboids, contrast and noise; on the CPU.

    Raises:
        ConfigError: Views are to be turned, and no two axes have the same length.
    """
    num = len(volumes)
    postures = other_postures(volumes.shape, generator)
    upright = torch.cat([posed(volumes, postures), postures.movedim(-1, 1).to(volumes.device)], dim=1)
    turned = torch.rand(num, generator=generator) < config.turned_share
    turns = torch.randint(1, NUM_TURNS, (num,), generator=generator) * turned
    plane = turning_plane(volumes.shape[-3:]) if config.turned_share > 0 else (1, 2)
    views = torch.stack([view.rot90(int(t), plane) for view, t in zip(upright, turns, strict=True)])
    whole, places = views[:, :-NUM_AXES], views[:, -NUM_AXES:]
    grid = [-(-size // config.block) for size in volumes.shape[-3:]]
    cuboids = torch.rand((num, 1, *grid), generator=generator) < config.masked_share
    for axis in (2, 3, 4):
        cuboids = cuboids.repeat_interleave(config.block, dim=axis)
    x, y, z = volumes.shape[-3:]
    lost = cuboids[..., :x, :y, :z].to(volumes.device)
    seen = other_contrast(whole, generator)
    deviation, mean = torch.std_mean(seen, dim=(2, 3, 4), keepdim=True)
    noise = torch.randn(whole.shape, generator=generator).to(volumes.device)
    shown = torch.where(lost, mean + deviation * noise, seen)
    return Views(shown, whole, lost, places, turns.to(volumes.device))


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
        position: Mean absolute error of the places that lie inside, in half edges.
        rotation: Cross-entropy.
        contrast: NT-Xent; 0 for a batch of one, which has nobody to be told from.
    """

    inpainting: Float[Tensor, ""]
    position: Float[Tensor, ""]
    rotation: Float[Tensor, ""]
    contrast: Float[Tensor, ""]

    def total(self, config: PretextConfig) -> Float[Tensor, ""]:
        """Return their weighted sum."""
        return (
            self.inpainting
            + config.position_weight * self.position
            + config.rotation_weight * self.rotation
            + config.contrast_weight * self.contrast
        )


def pretext_losses(
    network: SegmentationNetwork,
    heads: PretextHeads,
    volumes: VolumeBatch,
    config: PretextConfig,
    generator: torch.Generator,
) -> PretextLosses:
    """Return the losses on two views of each volume, or one.

    Args:
        network: With as many outputs as `num_outputs` says.
        heads: Of the network.
        volumes: In [-1, 1], on the network's device.
        config: The tasks.
        generator: See `make_views`.
    """
    pairs = config.contrast_weight > 0 and len(volumes) > 1
    views = make_views(torch.cat([volumes, volumes]) if pairs else volumes, config, generator)
    output, features = network(views.shown)
    restored, places = output[:, :-NUM_AXES], output[:, -NUM_AXES:]
    inside = (views.places.abs() <= 1).all(dim=1, keepdim=True)
    contrast = output.new_zeros(())
    if pairs:
        contrast = ContrastiveLoss(temperature=config.temperature)(*heads.embedding(features).chunk(2))
    return PretextLosses(
        inpainting=_mean_error(restored, views.whole, views.lost),
        position=_mean_error(places, views.places, inside),
        rotation=functional.cross_entropy(heads.turns(features), views.turns),
        contrast=contrast,
    )


def _mean_error(found: Tensor, true: Tensor, where: Bool[Tensor, "batch 1 x y z"]) -> Float[Tensor, ""]:
    """Return the mean absolute error over all channels of the voxels that count; 0 if none does."""
    counted = where.expand_as(found)
    return ((found - true).abs() * counted).sum() / counted.sum().clamp_min(1)
