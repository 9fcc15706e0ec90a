"""What a set of private stages promises, and how much of their gradients the noise leaves.

The noise that the averaged step of K sites carries has a norm of about sigma C sqrt(d) / (q N sqrt(K)) in
d trainable dimensions; the signal's norm is at most C. Their quotient tells beforehand whether training
can work. Over T steps noise adds up like sqrt(T) and a constant signal like T, hence the division by
sqrt(T): an optimistic bound, as no training moves in one direction all the time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import ConfigError
from common.privacy.accountant import epsilon
from common.privacy.attack_bounds import AttackBounds, attack_bounds
from common.privacy.events import SampledGaussian
from common.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class NoiseToSignal:
    """Norm of the noise over the largest norm of the signal; 1 is balance.

    Attributes:
        per_step: Of one averaged step.
        over_run: Of the sum of all steps, if all signals point the same way.
        balanced_dimension: Trainable dimension at which a step's noise is as large as its signal.
        balanced_dimension_over_run: The same for the run: an optimistic bound.
    """

    per_step: float
    over_run: float
    balanced_dimension: int
    balanced_dimension_over_run: int


def noise_to_signal(plan: PrivacyPlan, dimension: int, num_sites: int) -> NoiseToSignal:
    """Return the quotients for ``dimension`` trainable parameters and ``num_sites`` equal sites."""
    per_coordinate = plan.noise_multiplier / (plan.nominal_batch * math.sqrt(num_sites))
    per_step = per_coordinate * math.sqrt(dimension)
    return NoiseToSignal(
        per_step=per_step,
        over_run=per_step / math.sqrt(plan.steps),
        balanced_dimension=int(per_coordinate**-2),
        balanced_dimension_over_run=int(plan.steps * per_coordinate**-2),
    )


@dataclass(frozen=True)
class PrivacySummary:
    """The numbers to read before agreeing to a plan.

    Attributes:
        delta: Total delta of every epsilon here.
        against_server: Joint epsilon of all stages, from a site's own noise: against the server, other sites
            and everyone who receives the model or volumes.
        by_stage: Epsilon of each stage alone, at the same delta; they do not add up to the joint one.
        known_to: Joint epsilon of a patient whom 2 or 3 sites know.
        against_outsider: Where the server sees only the sum: joint epsilon against a recipient.
        against_other_site: The same against another site, which can take its own noise off.
        bounds: What any membership test finds at most.
    """

    delta: float
    against_server: float
    by_stage: Mapping[str, float]
    known_to: Mapping[int, float]
    against_outsider: float | None
    against_other_site: float | None
    bounds: AttackBounds


def privacy_summary(plans: Mapping[str, PrivacyPlan], delta: float, quorum: int | None) -> PrivacySummary:
    """Return what the stages of a study cost together.

    Args:
        plans: One per private stage.
        delta: Total delta.
        quorum: Fewest sites in a sum, if every reply is the noised sum of one step, all sites weigh the same
            and the server is trusted to show only the total. The noise of the other sites then protects a
            patient too. None: replies may be seen one by one.

    Raises:
        ConfigError: A quorum for stages with more than one step a round: local training between steps is
            no sum, and its noises do not add up.
    """
    events = [plan.event for plan in plans.values()]
    return PrivacySummary(
        delta=delta,
        against_server=epsilon(events, delta),
        by_stage={name: epsilon([plan.event], delta) for name, plan in plans.items()},
        known_to={times: epsilon([event.repeated(times) for event in events], delta) for times in (2, 3)},
        against_outsider=_with_pooled_noise(plans, delta, quorum),
        against_other_site=_with_pooled_noise(plans, delta, quorum and quorum - 1),
        bounds=attack_bounds(events),
    )


def _with_pooled_noise(plans: Mapping[str, PrivacyPlan], delta: float, sources: int | None) -> float | None:
    """Return the joint epsilon under the noise of ``sources`` sites."""
    if sources is None:
        return None
    several = [name for name, plan in plans.items() if plan.steps_per_round > 1]
    if several:
        raise ConfigError(
            f"stage {several[0]} makes {plans[several[0]].steps_per_round} steps a round: the noises of "
            "several sites add up only in a single step",
            "set one step a round, or do not claim pooled noise",
        )
    factor = math.sqrt(max(1, sources))
    events: list[SampledGaussian] = [
        plan.with_noise(plan.noise_multiplier * factor).event for plan in plans.values()
    ]
    return epsilon(events, delta)
