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
from collections.abc import Mapping
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from client.dataset import VolumeDataset
from client.latent_store import LatentStore
from client.policy import Policy
from client.private.budget import Budget
from client.private.gradient_engines import loop_gradients
from client.private.ledger import Ledger
from client.private.private_step import PrivateStep, RowsOf
from client.private.secret_stream import RoundSecret
from client.private_tasks import private_task
from client.stored_report import report_from_bytes, report_to_bytes
from client.training_round import SiteContext
from common.artifact import digest_of_tensors
from common.code_digest import code_digest
from common.errors import LedgerError, PrivacyError
from common.federation.learning_rate import learning_rate_at
from common.federation.messages import TrainOrder, TrainReport
from common.federation.stage import Stage
from common.privacy.guard import refuse_leaks
from common.privacy.ledger_format import OrderKey, Reserve
from common.privacy.plan import PrivacyPlan
from common.study import Study

logger = logging.getLogger("fedvox.site")

# Patients go through the network one at a time, so one backward pass over the mean of a patient's rows is
# the fastest engine there is; hooks and vmap are for many patients in one pass.
ENGINE = loop_gradients


class PrivateRounds:
    """One private stage of one study at one site.

    Args:
        study: A study with differential privacy.
        stage: A stage that it trains privately.
        policy: The site's limits, which allow it.

    Raises:
        LedgerError: The site has no ledger, or not the one it should have.
        PrivacyError: The network cannot be trained privately.
    """

    def __init__(self, study: Study, stage: Stage, policy: Policy) -> None:
        if stage not in study.private_plans or policy.epsilon is None or policy.ledger is None:
            raise PrivacyError("a private round without a plan and a cap", "see policy in site.yaml")
        self.study = study
        self.plan: PrivacyPlan = study.private_plans[stage]
        self.ledger = Ledger(policy.ledger)
        self._schedule = study.schedule_of(stage)
        self._budget = Budget(epsilon=policy.epsilon, delta=policy.delta)
        self._mark = policy.mark
        self._task = private_task(study, stage)
        self._code = code_digest()
        network, rows = self._task.example()
        refuse_leaks(network, self._task.loss, rows, ENGINE)

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
        network = self._task.network(order, store).to(context.device)
        self._task.refuse_unlabelled(order, context)
        self.ledger.reserve(
            self._reservation(key, context.dataset),
            self._budget,
            most_rounds=self.plan.rounds + self.plan.spare_rounds,
        )
        rows_of = self._task.rows(order, context, store)
        reply = report_to_bytes(self._trained_round(order, network, rows_of, context))
        self.ledger.commit(key, reply)
        return reply

    def _reservation(self, key: OrderKey, dataset: VolumeDataset) -> Reserve:
        return Reserve(
            event=self.plan.event_of(rounds=1),
            clip_norm=self.plan.clip_norm,
            order=key,
            code=self._code,
            patients=self.ledger.fingerprint_of(dataset.patients),
            mark=self._mark,
            time=datetime.now(UTC),
        )

    def _trained_round(
        self, order: TrainOrder, network: nn.Module, rows_of: RowsOf, context: SiteContext
    ) -> TrainReport:
        """Make the round's steps, with randomness drawn for them alone."""
        patients = sorted(set(context.dataset.patients))
        step = PrivateStep(self.plan, order.stage.value, self._task.loss, rows_of, ENGINE)
        secret = RoundSecret.drawn()
        first = (order.round_index - 1) * self.plan.steps_per_round
        for index in range(first, first + self.plan.steps_per_round):
            gradient = step.gradient(network, patients, secret, index)
            descend(network, gradient, learning_rate_at(index, self._schedule))
            done = index - first + 1
            context.on_step(order.stage.value, order.round_index, done, self.plan.steps_per_round, None)
        return TrainReport(
            study_digest=order.study_digest,
            site=order.site,
            stage=order.stage,
            round_index=order.round_index,
            parameters=self._task.reported(order, network),
            steps=self.plan.steps_per_round,
            seconds=0.0,
        )


def order_key(order: TrainOrder) -> OrderKey:
    """Return what makes two orders the same; the model is hashed here, not taken on trust.

    Raises:
        LedgerError: The order does not say which run it is of.
    """
    parent = digest_of_tensors({**order.parameters, "frozen digest": _as_tensor(order.frozen_digest)})
    try:
        return OrderKey(
            study=order.study_digest,
            run=order.run,
            stage=order.stage.value,
            round_index=order.round_index,
            parent=parent,
        )
    except ValueError:
        raise LedgerError("an order without a run or with an impossible round", "ask for it again") from None


def descend(module: nn.Module, gradient: Mapping[str, Tensor], learning_rate: float) -> None:
    """Take one step of gradient descent, in place."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, direction in gradient.items():
            parameters[name].sub_(direction, alpha=learning_rate)


def _as_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
