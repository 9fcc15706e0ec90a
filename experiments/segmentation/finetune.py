"""Fine-tuning on a few labelled volumes: Dice and cross-entropy, for a fixed number of steps.

Every step sees them in other postures and contrasts. Without postures two hippocampi are learned by heart:
the Dice of others falls from 0.74 after 100 steps to 0.70 after 200; with them it rises to 0.78 (from
scratch, 8 seeds, validation and left-over labelled patients).
"""

from collections.abc import Mapping

import torch
from monai.losses import DiceCELoss
from torch import Tensor

from common.errors import DataError
from common.shapes import VolumeBatch
from common.volume.labels import LabelMaps
from experiments.segmentation.contrast import other_contrast
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.posture import other_postures, posed, posed_labels
from experiments.segmentation.pretrain import ScheduleConfig, batches, one_cycle


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
        places = other_postures(volumes[batch].shape, generator)
        shown = other_contrast(posed(volumes[batch], places), generator).to(device)
        wanted = posed_labels(label_maps[batch], places)[:, None].to(device)
        value = loss(trained(shown)[0], wanted)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        scheduler.step()
    return trained.eval()
