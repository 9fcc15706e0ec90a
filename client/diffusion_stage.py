"""One round of the diffusion stage at a site, over latents that never leave it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from client.dataset import VolumeDataset
from client.latent_store import LatentStore
from client.training_round import SiteContext, Step, train_round
from common.diffusion.training import DiffusionTraining
from common.errors import DataError
from common.federation.messages import TrainOrder, TrainReport
from common.study import Study
from common.study_networks import study_denoiser


def train_diffusion_round(order: TrainOrder, context: SiteContext, store: LatentStore) -> TrainReport:
    """Return the site's denoiser after the round's local steps from the order's parameters.

    Args:
        order: Global state, round and, at first, the frozen codec.
        context: What the site brings.
        store: The site's cache of codec and latents.
    """
    study = context.study
    latents = store.latents(order, context.dataset)
    labels = site_labels(study, order.site, context.dataset)
    denoiser = study_denoiser(study, order.parameters).to(context.device)
    training = DiffusionTraining(denoiser, study.diffusion.model)
    proximal = context.proximal(order)

    def train_step(step: Step) -> Mapping[str, float]:
        batch = latents[step.indices].to(context.device)
        batch_labels = None if labels is None else labels[step.indices].to(context.device)
        with context.autocast():
            loss = training.step(batch, batch_labels, step.learning_rate, step.noise, proximal)
        return {"loss": loss}

    return train_round(order, context, study.diffusion.training, train_step, training.state)


def site_labels(study: Study, site: str, dataset: VolumeDataset) -> Tensor | None:
    """Return the condition of each exam, or None if the study has none.

    Raises:
        DataError: The study conditions on a class that the patient table does not give.
    """
    condition = study.diffusion.model.condition
    match condition.kind:
        case "none":
            return None
        case "site":
            return torch.full((len(dataset.exams),), study.federation.sites.index(site))
        case "class":
            classes = [exam.class_label for exam in dataset.exams]
            known = [label for label in classes if label is not None and 0 <= label < study.num_classes]
            if len(known) < len(classes):
                raise DataError(
                    f"{len(classes) - len(known)} exams have no class, or one outside the study's",
                    f"give every row of the patient table a class from 0 to {study.num_classes - 1}",
                )
            return torch.tensor(known)
