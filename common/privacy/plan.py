"""A privacy plan: every public number on which a site's guarantee depends, in one object.

The same object drives the sampler, the clipping, the noise and the ledger's event, so what is accounted
is what runs. Nothing in it depends on patients: numbers of patients are nominal, agreed on in the study.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from common.errors import ConfigError
from common.frozen import FrozenModel
from common.privacy.accountant import epsilon, rdp_epsilon
from common.privacy.events import NoiseMultiplier, SampledGaussian, SamplingRate

Delta = Annotated[float, Field(gt=0, lt=1)]


class PrivacyPlan(FrozenModel):
    """How one stage is trained privately.

    Attributes:
        unit: Whose presence is protected: a patient, with all volumes.
        relation: Neighbouring datasets differ by one patient who is there or not.
        clip_norm: C: largest norm of one patient's contribution to a step.
        sampling_rate: q: public probability that a patient takes part in a step.
        nominal_patients: N: public number of patients of a site; divides the noised sum as q N.
        steps_per_round: E: private steps of a site in a round.
        rounds: Rounds of the stage.
        spare_rounds: Further rounds that are paid for in advance: one that is lost is charged too.
        noise_multiplier: sigma: standard deviation of the noise over C.
        draws: Noise draws per volume that are averaged before clipping.
        augmentations: Augmented copies of a volume that are averaged before clipping; 0 is none.
    """

    unit: Literal["patient"] = "patient"
    relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    clip_norm: PositiveFloat = 1.0
    sampling_rate: SamplingRate
    nominal_patients: PositiveInt
    steps_per_round: PositiveInt = 1
    rounds: PositiveInt
    spare_rounds: NonNegativeInt = 0
    noise_multiplier: NoiseMultiplier
    draws: PositiveInt = 4
    augmentations: NonNegativeInt = 0

    @model_validator(mode="after")
    def _somebody_takes_part(self) -> "PrivacyPlan":
        if self.nominal_batch < 1:
            raise ValueError(
                f"sampling rate {self.sampling_rate} of {self.nominal_patients} nominal patients is fewer "
                "than one patient a step: raise the rate"
            )
        return self

    @property
    def nominal_batch(self) -> float:
        """B0 = q N: what the noised sum is divided by, whoever takes part."""
        return self.sampling_rate * self.nominal_patients

    @property
    def steps(self) -> int:
        """Steps that are paid for: those of all rounds and spare rounds."""
        return self.steps_per_round * (self.rounds + self.spare_rounds)

    @property
    def event(self) -> SampledGaussian:
        """What the whole stage costs."""
        return self.event_of(self.rounds + self.spare_rounds)

    def event_of(self, rounds: int) -> SampledGaussian:
        """Return what ``rounds`` rounds cost, finished or lost."""
        return SampledGaussian(
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps_per_round * rounds,
        )

    def with_noise(self, noise_multiplier: float) -> "PrivacyPlan":
        """Return the plan with another sigma."""
        return PrivacyPlan.model_validate(self.model_dump() | {"noise_multiplier": noise_multiplier})


_DIGITS = 4  # of sigma
_PRECISION = 10**-_DIGITS
_LEAST_RATIO = 1e-3  # that the root finder is told: it can do nothing with 0, nor with infinity
_LEAST_NOISE, _LARGEST_NOISE = 1e-2, 1e5
_LAXER = "raise epsilon, or take fewer steps or a lower sampling rate"


def calibrate(
    plans: Sequence[PrivacyPlan], target_epsilon: float, delta: float
) -> tuple[tuple[PrivacyPlan, ...], float]:
    """Return the plans with the smallest common sigma that keeps all stages within ``target_epsilon``.

    Args:
        plans: One per private stage; their own noise is not used.
        target_epsilon: Largest joint epsilon.
        delta: Total delta of all stages.

    Returns:
        The plans, and their joint epsilon.

    Raises:
        ConfigError: No noise is enough, or the target is so lax that no accountant looks at it.
    """
    if not plans:
        raise ConfigError("no stage is trained privately", "give at least one plan")

    def events(noise_multiplier: float) -> list[SampledGaussian]:
        return [plan.with_noise(noise_multiplier).event for plan in plans]

    @cache
    def spent(noise_multiplier: float) -> float:
        return epsilon(events(noise_multiplier), delta)

    def by_renyi(noise_multiplier: float) -> float:
        return rdp_epsilon(events(noise_multiplier), delta)

    if not by_renyi(_LARGEST_NOISE) <= target_epsilon:
        raise ConfigError(
            f"no noise keeps {sum(plan.steps for plan in plans)} steps within epsilon {target_epsilon:g} at "
            f"delta {delta:g}",
            _LAXER,
        )
    # Renyi DP bounds epsilon from above, so its sigma suffices, but for the accountants' own margin of error.
    enough = _crossing(lambda sigma: by_renyi(sigma) / target_epsilon, _LEAST_NOISE, _LARGEST_NOISE)
    while not spent(enough) <= target_epsilon:
        enough *= 2
        if enough > _LARGEST_NOISE:
            raise ConfigError(f"epsilon {target_epsilon:g} is below the accountants' own error", _LAXER)
    too_little = 0.85 * enough
    while spent(too_little) <= target_epsilon:
        too_little *= 0.7
    noise = _crossing(lambda sigma: spent(sigma) / target_epsilon, too_little, enough)
    return tuple(plan.with_noise(noise) for plan in plans), spent(noise)


def _crossing(ratio: Callable[[float], float], low: float, high: float) -> float:
    """Return the least sigma, to `_DIGITS` digits, at which a falling ratio is at most 1.

    The accountants take seconds for each sigma, and what they say is smooth: a root finder asks a third as
    often as bisection.

    Args:
        ratio: Of sigma.
        low: A sigma at which it is above 1; if it is not, that is the answer.
        high: One at which it is not.
    """
    # Here late: most processes calibrate nothing.
    from scipy.optimize import brentq

    def height(log_sigma: float) -> float:
        return math.log(min(max(ratio(math.exp(log_sigma)), _LEAST_RATIO), 1 / _LEAST_RATIO))

    if ratio(low) <= 1:
        return low
    root = math.exp(brentq(height, math.log(low), math.log(high), xtol=_PRECISION / 4))
    sigma = round(math.ceil(root / _PRECISION) * _PRECISION, _DIGITS)
    while ratio(sigma) > 1:
        sigma = round(sigma + _PRECISION * max(1.0, sigma), _DIGITS)
    return float(min(sigma, high))
