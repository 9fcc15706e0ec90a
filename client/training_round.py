"""The loop that both stages share: the round's local steps, and the report they end in."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from client.batches import batches
from client.dataset import VolumeDataset
from client.progress import StepCallback
from client.running_mean import RunningMean
from client.site_config import Compute
from common.federation.config import FedProxConfig, TrainingConfig
from common.federation.learning_rate import learning_rate_at
from common.federation.messages import TrainOrder, TrainReport
from common.federation.seeds import seeded_generator
from common.study import Study


@dataclass(frozen=True)
class SiteContext:
    """What a site brings to a round.

    Attributes:
        study: The study.
        dataset: The site's volumes.
        compute: Mixed precision or not.
        device: Where to train.
        stream: Name that keys the site's random draws.
        on_step: Called after each local step.
    """

    study: Study
    dataset: VolumeDataset
    compute: Compute
    device: torch.device
    stream: str
    on_step: StepCallback

    def proximal(self, order: TrainOrder) -> tuple[float, dict[str, Tensor]] | None:
        """Return FedProx's μ and the parameters it pulls to, or None under any other strategy."""
        strategy = self.study.federation.strategy
        if isinstance(strategy, FedProxConfig) and strategy.proximal_mu > 0:
            return strategy.proximal_mu, dict(order.parameters)
        return None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return bfloat16 autocast if the site asks for it, else a context that does nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute.amp)


@dataclass(frozen=True)
class Step:
    """One local step, as a stage's training sees it.

    Attributes:
        indices: Exams of the batch.
        index: Step of the stage, counted over all rounds from 0; public.
        learning_rate: Rate of this step.
        noise: CPU generator of every draw but the batches'.
    """

    indices: Tensor
    index: int
    learning_rate: float
    noise: torch.Generator


def train_round(
    order: TrainOrder,
    context: SiteContext,
    schedule: TrainingConfig,
    train_step: Callable[[Step], Mapping[str, float]],
    trained_state: Callable[[], Mapping[str, Tensor]],
) -> TrainReport:
    """Make the round's local steps and return the report.

    A pure function of the order, the volumes and the study's seed: draws are keyed by site, stage
    and round, and the caller's optimizers are new.

    Args:
        order: Global state and round.
        context: What the site brings.
        schedule: Steps, batch size and learning rate of the stage.
        train_step: Makes one step and returns its losses, ``loss`` among them.
        trained_state: Returns the parameters after the last step.
    """
    started = time.monotonic()
    key = (context.study.seed, context.stream, order.stage.value, order.round_index)
    which = seeded_generator(*key, "batches")
    noise = seeded_generator(*key, "noise")
    means = RunningMean()
    first = (order.round_index - 1) * schedule.local_steps
    drawn = batches(context.dataset.patients, schedule.batch_size, schedule.local_steps, which)
    for index, indices in enumerate(drawn, start=first):
        losses = train_step(Step(indices, index, learning_rate_at(index, schedule), noise))
        means.add(losses)
        done = index - first + 1
        context.on_step(order.stage.value, order.round_index, done, schedule.local_steps, losses["loss"])
    return TrainReport(
        study_digest=order.study_digest,
        site=order.site,
        stage=order.stage,
        round_index=order.round_index,
        parameters=trained_state(),
        steps=schedule.local_steps,
        seconds=time.monotonic() - started,
        metrics=means.result(),
    )
