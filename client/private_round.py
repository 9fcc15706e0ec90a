"""A private round at a site: paid for first, computed once, stored, and only then sent.

    policy  ->  order checked  ->  RESERVE on the disk  ->  private steps  ->  reply, COMMIT  ->  reply leaves

One order at a time, whoever asks. An order whose tensors do not fit, or whose condition the site's table
does not give, is refused before it costs anything. What leaves is the trained tensors after the noise, and
the proof that the ledger goes on: no loss, no time, no count. Files are checked and preprocessed when the
site opens its data, and the list of patients is read for the fingerprint that RESERVE holds; nothing of that
leaves. Training touches patients only after RESERVE.

A step is plain gradient descent along the noised sum, so that a round of one step is that sum itself and
nothing else; momentum and Adam are the server's, which needs no patient for them.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from client.dataset import VolumeDataset
from client.diffusion_stage import site_labels
from client.frozen_store import refuse_other_shapes
from client.latent_store import LatentStore
from client.policy import Policy
from client.private.budget import Budget
from client.private.gradient_engines import loop_gradients
from client.private.ledger import Ledger
from client.private.private_step import PrivateStep
from client.private.secret_stream import RoundSecret, SecretStream
from client.stored_report import report_from_bytes, report_to_bytes
from client.training_round import SiteContext
from common.artifact import digest_of_tensors
from common.code_digest import code_digest
from common.diffusion.objective import Draws, Objective, make_objective
from common.errors import FederationError, LedgerError, PrivacyError
from common.federation.learning_rate import learning_rate_at
from common.federation.messages import TrainOrder, TrainReport
from common.federation.seeds import seeded_generator
from common.frozen_networks import DENOISER_PREFIX, part_of
from common.privacy.guard import refuse_leaks
from common.privacy.ledger_format import OrderKey, Reserve
from common.privacy.patient_gradients import RowLoss, Rows, trainable
from common.privacy.plan import PrivacyPlan
from common.shapes import Latent
from common.study import Study
from common.study_denoiser import fresh_denoiser, study_denoiser

logger = logging.getLogger("fedvox.site")

# Patients go through the network one at a time, so one backward pass over the mean of a patient's rows is
# the fastest engine there is; hooks and vmap are for many patients in one pass.
ENGINE = loop_gradients
_GUARD_ROWS = 3


class PrivateRounds:
    """The private stage of one study at one site.

    Args:
        study: A study with differential privacy.
        policy: The site's limits, which allow it.

    Raises:
        LedgerError: The site has no ledger, or not the one it should have.
        PrivacyError: The network cannot be trained privately.
    """

    def __init__(self, study: Study, policy: Policy) -> None:
        if study.private_plan is None or policy.epsilon is None or policy.ledger is None:
            raise PrivacyError("a private round without a plan and a cap", "see policy in site.yaml")
        self.study = study
        self.plan: PrivacyPlan = study.private_plan
        self.ledger = Ledger(policy.ledger)
        self._budget = Budget(epsilon=policy.epsilon, delta=policy.delta)
        self._mark = policy.mark
        self._objective = make_objective(study.diffusion.model)
        self._loss = _loss_of(self._objective)
        self._code = code_digest()
        network = fresh_denoiser(study, seeded_generator(study.seed, "shape only"))
        refuse_leaks(network, self._loss, _made_up_rows(study, self._objective), ENGINE)
        self._trained = trainable(network)

    def execute(self, order: TrainOrder, context: SiteContext, store: LatentStore) -> TrainReport:
        """Return the reply to an order: the stored one if it was answered before.

        Raises:
            BudgetError: Neither the site's cap nor the study's rounds leave room for it; nothing was read.
            LedgerError: The ledger does not hold what the coordinator saw of it.
            FederationError: The order does not fit the study; nothing was spent.
        """
        key = order_key(order)
        with self.ledger.one_order_at_a_time():
            self.ledger.acknowledge(order.ledger_head)
            stored = self.ledger.stored_reply(key)
            if stored is None:
                stored = self._paid_and_computed(order, key, context, store)
            proof = self.ledger.proof_from(order.ledger_head, key)
        return dataclasses.replace(report_from_bytes(stored), ledger=proof)

    def _paid_and_computed(
        self, order: TrainOrder, key: OrderKey, context: SiteContext, store: LatentStore
    ) -> bytes:
        """Return the stored reply to an order that had none."""
        denoiser = self._denoiser(order, store).to(context.device)
        labels = site_labels(self.study, order.site, context.dataset)
        self.ledger.reserve(
            self._reservation(order, key, context.dataset),
            self._budget,
            most_rounds=self.plan.rounds + self.plan.spare_rounds,
        )
        rows_of = PatientRows(
            store.latents(order, context.dataset),
            labels,
            context.dataset.patients,
            self.plan.draws,
            self._objective,
            context.device,
        )
        reply = report_to_bytes(self._trained_round(order, denoiser, rows_of, context))
        self.ledger.commit(key, reply)
        return reply

    def _denoiser(self, order: TrainOrder, store: LatentStore) -> nn.Module:
        """Return the network that the order means, after checking that it is the study's."""
        refuse_other_shapes(order.parameters, self._trained)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in order.parameters.values()):
            raise FederationError("the order's tensors are not finite", "go back to the round before")
        fixed = part_of(store.frozen(order), DENOISER_PREFIX)
        return study_denoiser(self.study, {**fixed, **order.parameters})

    def _reservation(self, order: TrainOrder, key: OrderKey, dataset: VolumeDataset) -> Reserve:
        return Reserve(
            event=self.plan.event_of(rounds=1),
            clip_norm=self.plan.clip_norm,
            order=key,
            study=order.study_digest,
            code=self._code,
            patients=self.ledger.fingerprint_of(dataset.patients),
            mark=self._mark,
            time=datetime.now(UTC),
        )

    def _trained_round(
        self, order: TrainOrder, denoiser: nn.Module, rows_of: "PatientRows", context: SiteContext
    ) -> TrainReport:
        """Make the round's steps, with randomness drawn for them alone."""
        step = PrivateStep(self.plan, order.stage.value, self._loss, rows_of, ENGINE)
        secret = RoundSecret.drawn()
        schedule = self.study.diffusion.training
        first = (order.round_index - 1) * self.plan.steps_per_round
        for index in range(first, first + self.plan.steps_per_round):
            gradient = step.gradient(denoiser, rows_of.patients, secret, index)
            descend(denoiser, gradient, learning_rate_at(index, schedule))
            done = index - first + 1
            context.on_step(order.stage.value, order.round_index, done, self.plan.steps_per_round, None)
        state = denoiser.state_dict()
        return TrainReport(
            study_digest=order.study_digest,
            site=order.site,
            stage=order.stage,
            round_index=order.round_index,
            parameters={name: state[name].detach().cpu().clone() for name in order.parameters},
            steps=self.plan.steps_per_round,
            seconds=0.0,
        )


class PatientRows:
    """Makes the rows of a patient: every latent, as often as there are noise draws.

    Args:
        latents: Latents of all exams of the site.
        labels: Condition of each exam, or None.
        patients: Patient of each exam.
        draws: Noise draws per latent.
        objective: Draws times, noise and condition dropout.
        device: Where the network is.
    """

    def __init__(
        self,
        latents: Latent,
        labels: Tensor | None,
        patients: Sequence[str],
        draws: int,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.patients = sorted(set(patients))
        self._exams = {p: [i for i, own in enumerate(patients) if own == p] for p in self.patients}
        self._latents, self._labels = latents, labels
        self._draws, self._objective, self._device = draws, objective, device

    def __call__(self, patient: str, stream: SecretStream) -> Rows:
        """Return the patient's rows; ``stream`` decides the draws."""
        exams = torch.tensor(self._exams[patient]).repeat_interleave(self._draws)
        generator = torch.Generator().manual_seed(stream.seed())
        latents = self._latents[exams]
        draws = self._objective.draw(latents, generator)
        labels = {} if self._labels is None else {"label": self._labels[exams]}
        rows = {
            "latent": latents,
            "time": draws.time,
            "eps": draws.eps,
            "drop_label": draws.drop_label,
            **labels,
        }
        return {name: tensor.to(self._device) for name, tensor in rows.items()}


def order_key(order: TrainOrder) -> OrderKey:
    """Return what makes two orders the same; the model is hashed here, not taken on trust.

    Raises:
        LedgerError: The order does not say which run it is of.
    """
    parent = digest_of_tensors({**order.parameters, "frozen digest": _as_tensor(order.frozen_digest)})
    try:
        return OrderKey(run=order.run, stage=order.stage.value, round_index=order.round_index, parent=parent)
    except ValueError:
        raise LedgerError("an order without a run or with an impossible round", "ask for it again") from None


def descend(module: nn.Module, gradient: Mapping[str, Tensor], learning_rate: float) -> None:
    """Take one step of gradient descent, in place."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, direction in gradient.items():
            parameters[name].sub_(direction, alpha=learning_rate)


def _loss_of(objective: Objective) -> RowLoss:
    def loss(module: nn.Module, rows: Rows) -> Tensor:
        draws = Draws(rows["time"], rows["eps"], rows["drop_label"])
        return objective.loss_at(module, rows["latent"], rows.get("label"), draws)

    return loss


def _made_up_rows(study: Study, objective: Objective) -> Rows:
    """Return rows of latents as small as the network takes: what the guard asks does not depend on size."""
    generator = seeded_generator(study.seed, "guard")
    smallest = 2 ** len(study.diffusion.model.denoiser.channels)
    sizes = (min(size, smallest) for size in study.latent_shape)
    shape = (_GUARD_ROWS, study.codec.model.code_dim, *sizes)
    latents = torch.randn(shape, generator=generator)
    draws = objective.draw(latents, generator)
    rows = {"latent": latents, "time": draws.time, "eps": draws.eps, "drop_label": draws.drop_label}
    if study.num_classes:
        rows["label"] = torch.arange(_GUARD_ROWS) % study.num_classes
    return rows


def _as_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
