"""dp-accounting's privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from common.privacy.events import SampledGaussian

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution


def composed(events: Sequence[SampledGaussian]) -> "PrivacyLossDistribution":
    """Return the distribution of the privacy loss of all events together, for adding and removing a patient.

    It is pessimistic: epsilon and delta read from it are never below the true ones.
    """
    return _composed(tuple(events))


@lru_cache(maxsize=64)
def _composed(events: tuple[SampledGaussian, ...]) -> "PrivacyLossDistribution":
    from dp_accounting.pld import privacy_loss_distribution

    total = privacy_loss_distribution.identity()
    for event in events:
        step = privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier, sampling_prob=event.sampling_rate
        )
        total = total.compose(step.self_compose(event.steps))
    return total
