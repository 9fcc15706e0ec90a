"""Self-supervised pretraining: volumes in, the weights of a plain MONAI network out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from common.errors import DataError
from common.frozen import FrozenModel
from common.initialisation import initialised_from
from common.shapes import VolumeBatch
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.pretext import PretextConfig, PretextHeads, num_outputs, pretext_losses


class ScheduleConfig(FrozenModel):
    """AdamW with a learning rate that rises, then falls to nothing (Smith & Topin 2018).

    Attributes:
        steps: Optimizer steps; all are made.
        batch_size: Volumes a step.
        learning_rate: At its highest.
    """

    steps: PositiveInt
    batch_size: PositiveInt = 4
    learning_rate: PositiveFloat = 2e-3


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network.

    Attributes:
        weights: Of the MONAI network, by its own names, on the CPU.
        inpainting: Mean loss of that task over the last tenth of the steps.
    """

    weights: dict[str, Tensor]
    inpainting: float


def pretrain(
    volumes: VolumeBatch,
    network: NetworkConfig,
    pretext: PretextConfig,
    schedule: ScheduleConfig,
    generator: torch.Generator,
    device: torch.device,
) -> Pretrained:
    """Return a network trained on ``volumes`` without labels.

    Args:
        volumes: In [-1, 1], on the CPU.
        network: Which network.
        pretext: What it learns.
        schedule: For how long.
        generator: Draws parameters, order and views; on the CPU.
        device: Where it is trained.

    Raises:
        DataError: There are no volumes.
    """
    if len(volumes) == 0:
        raise DataError("there are no volumes to pretrain on", "name a folder of volumes")
    channels = volumes.shape[1]
    trained = SegmentationNetwork.fresh(network, channels, num_outputs(channels), generator).to(device)
    with torch.no_grad():
        num_features = trained.eval()(volumes[:1].to(device))[1].shape[1]
    with initialised_from(generator):
        heads = PretextHeads(num_features, pretext).to(device)
    optimizer, scheduler = one_cycle([*trained.parameters(), *heads.parameters()], schedule)
    last: list[float] = []
    trained.train()
    for step, batch in enumerate(batches(len(volumes), schedule, generator)):
        losses = pretext_losses(trained, heads, volumes[batch].to(device), pretext, generator)
        optimizer.zero_grad(set_to_none=True)
        losses.total(pretext).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if step >= schedule.steps * 9 // 10:
            last.append(float(losses.inpainting.detach()))
    weights = {name: value.detach().cpu().clone() for name, value in trained.backbone.state_dict().items()}
    return Pretrained(weights, sum(last) / len(last))


def one_cycle(
    parameters: list[torch.nn.Parameter], schedule: ScheduleConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return optimizer and schedule over all steps."""
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=schedule.steps
    )


def batches(num: int, schedule: ScheduleConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of each step's batch: all things once, in a new order, then again."""
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(schedule.steps):
        while len(waiting) < schedule.batch_size:
            waiting = torch.cat([waiting, torch.randperm(num, generator=generator)])
        yield waiting[: schedule.batch_size]
        waiting = waiting[schedule.batch_size :]
