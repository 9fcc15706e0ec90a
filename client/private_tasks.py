"""What a private round trains: which tensors, on which rows of a patient, by which loss.

    CodecTask      the codec, or a part of it, on volumes; without discriminators
    DenoiserTask   the small trained part of a denoiser, on latents

A task first makes its network from an order, reading no patient, and opens the patients' rows only when it is
told to, after the round was paid for.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from client.diffusion_stage import site_labels
from client.frozen_store import NOT_THE_STUDYS
from client.latent_store import LatentStore
from client.private.private_step import RowsOf
from client.private.secret_stream import SecretStream
from client.training_round import SiteContext
from common.codec.codec import Codec
from common.codec.training import codec_loss
from common.diffusion.objective import Draws, Objective, make_objective
from common.errors import ConfigError, FederationError
from common.federation.messages import TrainOrder
from common.federation.seeds import seeded_generator
from common.federation.stage import Stage
from common.federation.tensor_check import first_difference, first_not_finite
from common.frozen_networks import CODEC_PREFIX, DENOISER_PREFIX, part_of, with_prefix
from common.privacy.patient_gradients import Rows, trainable
from common.study import Study
from common.study_networks import shaped_codec, shaped_denoiser, study_codec, study_denoiser

_MADE_UP_ROWS = 3


class PrivateTask(Protocol):
    """One private stage of a study."""

    def loss(self, module: nn.Module, rows: Rows) -> Tensor:
        """Return one loss per row."""
        ...

    def example(self) -> tuple[nn.Module, Rows]:
        """Return the network with weights that mean nothing and rows that are nobody's, for the guard."""
        ...

    def network(self, order: TrainOrder, store: LatentStore) -> nn.Module:
        """Return the network that the order means.

        Raises:
            FederationError: Its tensors are not those of the study's network.
        """
        ...

    def refuse_unlabelled(self, order: TrainOrder, context: SiteContext) -> None:
        """Raise DataError if the site's table lacks what the stage conditions on; no volume is read."""
        ...

    def rows(self, order: TrainOrder, context: SiteContext, store: LatentStore) -> RowsOf:
        """Return what makes a patient's rows; reads the patients."""
        ...

    def reported(self, order: TrainOrder, module: nn.Module) -> dict[str, Tensor]:
        """Return the order's tensors as the round leaves them."""
        ...


def private_task(study: Study, stage: Stage) -> PrivateTask:
    """Return the task of a stage that the study trains privately."""
    return CodecTask(study) if stage is Stage.CODEC else DenoiserTask(study)


class CodecTask:
    """Trains the public model's codec on.

    Args:
        study: A study with a private codec stage.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._shape = with_prefix(shaped_codec(study).state_dict(), CODEC_PREFIX)

    def loss(self, module: nn.Module, rows: Rows) -> Tensor:
        """Return the reconstruction and quantization loss per row."""
        assert isinstance(module, Codec)  # noqa: S101  network() made it
        return codec_loss(
            module, self._study.codec.model, rows["volume"], self._study.volume.num_label_channels
        )

    def example(self) -> tuple[nn.Module, Rows]:
        """Return the codec with rows as small as it takes."""
        generator = seeded_generator(self._study.seed, "guard")
        sizes = (2 * factor for factor in self._study.codec.model.downsampling)
        shape = (_MADE_UP_ROWS, self._study.volume.num_codec_channels, *sizes)
        return self._opened(shaped_codec(self._study)), {
            "volume": torch.rand(shape, generator=generator) * 2 - 1
        }

    def network(self, order: TrainOrder, store: LatentStore) -> nn.Module:  # noqa: ARG002
        """Return the order's codec, of which the study's part takes a gradient."""
        _refuse_unfit(order, self._shape)
        return self._opened(study_codec(self._study, part_of(order.parameters, CODEC_PREFIX)))

    def refuse_unlabelled(self, order: TrainOrder, context: SiteContext) -> None:
        """Return: a codec has no condition."""

    def rows(self, order: TrainOrder, context: SiteContext, store: LatentStore) -> RowsOf:  # noqa: ARG002
        """Return a patient's volumes as they are; nothing is drawn."""
        volumes = context.dataset.codec_volumes()
        exams = exams_of(context.dataset.patients)
        return lambda patient, _: {"volume": volumes[exams[patient]].to(context.device)}

    def reported(self, order: TrainOrder, module: nn.Module) -> dict[str, Tensor]:
        """Return the trained parameters, and all others as the order had them."""
        trained = with_prefix({n: p.detach().cpu() for n, p in trainable(module).items()}, CODEC_PREFIX)
        return {name: trained.get(name, tensor).clone() for name, tensor in order.parameters.items()}

    def _opened(self, codec: Codec) -> Codec:
        """Let only the parameters that the study trains take a gradient."""
        stage = self._study.privacy.codec if self._study.privacy is not None else None
        where = stage.where if stage is not None else ""
        for name, parameter in codec.named_parameters():
            parameter.requires_grad_(where in name)
        if not trainable(codec):
            raise ConfigError(
                f"no parameter of the codec has '{where}' in its name",
                "write privacy.codec.where: decoder, or leave it out",
            )
        return codec


class DenoiserTask:
    """Trains the small part of a public denoiser that the study names.

    Args:
        study: A private study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._objective = make_objective(study.diffusion.model)
        self._shape = trainable(shaped_denoiser(study))

    def loss(self, module: nn.Module, rows: Rows) -> Tensor:
        """Return the denoising loss per row, at the row's own draws."""
        draws = Draws(rows["time"], rows["eps"], rows["drop_label"])
        return self._objective.loss_at(module, rows["latent"], rows.get("label"), draws)

    def example(self) -> tuple[nn.Module, Rows]:
        """Return the denoiser with rows as small as it takes: what the guard asks does not depend on size."""
        study = self._study
        generator = seeded_generator(study.seed, "guard")
        smallest = 2 ** len(study.diffusion.model.denoiser.channels)
        sizes = (min(size, smallest) for size in study.latent_shape)
        latents = torch.randn((_MADE_UP_ROWS, study.codec.model.code_dim, *sizes), generator=generator)
        labels = torch.arange(_MADE_UP_ROWS) % study.num_classes if study.num_classes else None
        return shaped_denoiser(study), _denoiser_rows(latents, labels, self._objective, generator)

    def network(self, order: TrainOrder, store: LatentStore) -> nn.Module:
        """Return the order's denoiser: what it trains, and what is frozen."""
        _refuse_unfit(order, self._shape)
        store.codec(order)  # a codec that cannot encode is refused while it costs nothing
        fixed = part_of(store.frozen(order), DENOISER_PREFIX)
        return study_denoiser(self._study, {**fixed, **order.parameters})

    def refuse_unlabelled(self, order: TrainOrder, context: SiteContext) -> None:
        """Raise if an exam has no condition in the table."""
        site_labels(self._study, order.site, context.dataset)

    def rows(self, order: TrainOrder, context: SiteContext, store: LatentStore) -> RowsOf:
        """Return every latent of a patient, as often as there are noise draws, with draws of its own."""
        latents = store.latents(order, context.dataset)
        labels = site_labels(self._study, order.site, context.dataset)
        exams = exams_of(context.dataset.patients)
        draws = self._study.private_plans[Stage.DIFFUSION].draws

        def of_patient(patient: str, stream: SecretStream) -> Rows:
            own = exams[patient].repeat_interleave(draws)
            generator = torch.Generator().manual_seed(stream.seed())
            rows = _denoiser_rows(
                latents[own], None if labels is None else labels[own], self._objective, generator
            )
            return {name: tensor.to(context.device) for name, tensor in rows.items()}

        return of_patient

    def reported(self, order: TrainOrder, module: nn.Module) -> dict[str, Tensor]:
        """Return the trained parameters."""
        state = module.state_dict()
        return {name: state[name].detach().cpu().clone() for name in order.parameters}


def exams_of(patients: Sequence[str]) -> dict[str, Tensor]:
    """Return the positions of each patient's exams.

    Args:
        patients: Patient of each exam.
    """
    return {
        patient: torch.tensor([index for index, own in enumerate(patients) if own == patient])
        for patient in sorted(set(patients))
    }


def _denoiser_rows(
    latents: Tensor, labels: Tensor | None, objective: Objective, generator: torch.Generator
) -> dict[str, Tensor]:
    draws = objective.draw(latents, generator)
    rows = {"latent": latents, "time": draws.time, "eps": draws.eps, "drop_label": draws.drop_label}
    return rows if labels is None else {**rows, "label": labels}


def _refuse_unfit(order: TrainOrder, expected: Mapping[str, Tensor]) -> None:
    """Raise if the order holds other tensors than ``expected``, or numbers that are none."""
    wrong = first_difference(order.parameters, expected) or first_not_finite(order.parameters)
    if wrong is not None:
        raise FederationError(f"{NOT_THE_STUDYS}: {wrong}", "compare fedvox versions of server and site")
