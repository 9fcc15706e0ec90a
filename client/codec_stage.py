"""One round of the codec stage at a site."""

from collections.abc import Mapping

from client.training_round import SiteContext, Step, train_round
from common.codec.training import CodecTraining
from common.federation.messages import TrainOrder, TrainReport


def train_codec_round(order: TrainOrder, context: SiteContext) -> TrainReport:
    """Return the site's codec after the round's local steps from the order's parameters."""
    study = context.study
    volumes = context.dataset.codec_volumes()
    training = CodecTraining(
        study.codec.model,
        study.volume.num_codec_channels,
        order.parameters,
        context.device,
        num_labels=study.volume.num_label_channels,
    )
    proximal = context.proximal(order)

    def train_step(step: Step) -> Mapping[str, float]:
        batch = volumes[step.indices].to(context.device)
        with context.autocast():
            return training.step(batch, step.index, step.learning_rate, step.noise, proximal)

    return train_round(order, context, study.codec.training, train_step, training.state)
