"""What a study says of every report of a stage, for both ends to check."""

import math

from common.codec.codebook import COUNTS
from common.federation.allow_list import ReportRules
from common.federation.messages import TrainOrder
from common.federation.stage import Stage
from common.privacy.plan import PrivacyPlan
from common.study import Study

_MOST_DRAWN = 100  # times the nominal batch: what a site that is much larger than was agreed may add
_MOST_NOISE = 2  # times the expected norm of the noise; its deviation is a small part of that


def rules_for(study: Study, order: TrainOrder) -> ReportRules:
    """Return the rules for reports to an order."""
    stage = order.stage
    num_trained = sum(tensor.numel() for tensor in order.parameters.values())
    plan = study.private_plans.get(stage)
    return ReportRules(
        steps=study.schedule_of(stage).local_steps,
        private=study.privacy is not None,
        furthest=None if plan is None else _furthest(study, stage, plan, num_trained),
        counts=COUNTS,
    )


def _furthest(study: Study, stage: Stage, plan: PrivacyPlan, num_trained: int) -> float:
    """Return how far a private round can move the model: steps of clipped sums and of noise."""
    schedule = study.schedule_of(stage)
    sums = plan.clip_norm * _MOST_DRAWN * max(1.0, plan.nominal_batch)
    noise = _MOST_NOISE * plan.noise_multiplier * plan.clip_norm * (math.sqrt(num_trained) + 10)
    return schedule.local_steps * schedule.learning_rate * (sums + noise) / plan.nominal_batch
