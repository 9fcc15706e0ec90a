"""Fine-tuning on a few labelled volumes: Dice and cross-entropy, for a fixed number of steps."""

from collections.abc import Mapping

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from common.errors import DataError
from common.shapes import VolumeBatch
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.pretrain import ScheduleConfig, batches, one_cycle
from experiments.segmentation.scores import LabelMaps

_GAIN, _SHIFT = 0.1, 0.1  # standard deviations of the augmentation, of intensities in [-1, 1]


def finetune(
    volumes: VolumeBatch,
    label_maps: LabelMaps,
    num_classes: int,
    network: NetworkConfig,
    schedule: ScheduleConfig,
    generator: torch.Generator,
    device: torch.device,
    pretrained: Mapping[str, Tensor] | None = None,
) -> SegmentationNetwork:
    """Return a network that segments.

    The same generator gives the same initialisation, order and augmentation with and without
    ``pretrained``: arms differ in nothing else.

    Args:
        volumes: In [-1, 1], on the CPU.
        label_maps: 0 is background.
        num_classes: Background included.
        network: Which network.
        schedule: For how long.
        generator: Draws parameters, order and augmentation; on the CPU.
        device: Where it is trained.
        pretrained: Weights to start from, by the MONAI network's names; the output layer is always new.

    Raises:
        DataError: A label map holds other classes, or the weights are another network's.
    """
    if int(label_maps.max()) >= num_classes:
        raise DataError(
            f"a label map holds {int(label_maps.max())}, with {num_classes} classes", "name all classes"
        )
    trained = SegmentationNetwork.fresh(network, volumes.shape[1], num_classes, generator)
    if pretrained is not None:
        trained.start_from(pretrained)
    trained.to(device).train()
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer, scheduler = one_cycle(list(trained.parameters()), schedule)
    for batch in batches(len(volumes), schedule, generator):
        shown = augmented(volumes[batch], generator).to(device)
        value = loss(trained(shown)[0], label_maps[batch, None].to(device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        scheduler.step()
    return trained.eval()


def augmented(volumes: VolumeBatch, generator: torch.Generator) -> VolumeBatch:
    """Return volumes with another contrast and brightness each, as another scanner would give."""
    shape = (len(volumes), 1, 1, 1, 1)
    gain = 1 + _GAIN * torch.randn(shape, generator=generator)
    return volumes * gain + _SHIFT * torch.randn(shape, generator=generator)
