"""Opacus' accountant of privacy loss random variables (Gopi et al. 2021): the second opinion.

The only file of common that imports Opacus, and only its accountants (docs/decisions/0007).
"""

import warnings
from collections.abc import Sequence

from common.privacy.events import SampledGaussian

EPS_ERROR = 0.01


def prv_epsilon(events: Sequence[SampledGaussian], delta: float) -> float:
    """Return epsilon at ``delta``, at most `EPS_ERROR` above the true one and never below it.

    Args:
        events: All that touched a patient.
        delta: Total delta.
    """
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in events]
    with warnings.catch_warnings():
        # At q = 1 Opacus evaluates, and then discards, the logarithm of a negative number; and it advises on
        # the Renyi orders by which it only sizes its tables.
        warnings.filterwarnings("ignore", module="opacus")
        return float(accountant.get_epsilon(delta, eps_error=EPS_ERROR))
