"""Epsilon of a list of mechanisms: three accountants, and the larger of the two tight ones.

Two independent programs must agree before a number is shown: dp-accounting's privacy loss distributions
and Opacus' privacy loss random variables. Renyi DP (Mironov 2017) is an upper bound, 8 to 13 % above
them; neither may exceed it. All are joint compositions at one total delta: epsilons are never added.

>>> epsilon([SampledGaussian(sampling_rate=0.01, noise_multiplier=4, steps=10_000)], delta=1e-5) < 1
True
"""

import logging
import math
from collections.abc import Sequence

from common.errors import AccountingError
from common.privacy.events import SampledGaussian
from common.privacy.pld import composed
from common.privacy.prv import prv_epsilon

LARGEST_TIGHT_EPSILON = 50.0
_RELATIVE, _ABSOLUTE = 0.02, 0.02
_REPORT_THIS = "nothing is printed on a doubtful number; report it with the plan that led to it"

# Renyi orders that do not converge are left out, which can only raise the bound: nothing to warn of.
logging.getLogger("absl").setLevel(logging.ERROR)


def epsilon(events: Sequence[SampledGaussian], delta: float) -> float:
    """Return epsilon of ``events`` together, for one patient added or removed.

    Where the Renyi bound is above `LARGEST_TIGHT_EPSILON` it is returned itself: no guarantee worth the
    name is left, and the tight accountants' tables grow without limit.

    Args:
        events: All that touched a patient; none is an epsilon of 0.
        delta: Total delta, above 0 and below 1.

    Raises:
        AccountingError: Delta is no probability, or the accountants disagree.
    """
    if not 0 < delta < 1:
        raise AccountingError(
            f"delta {delta} is not between 0 and 1", "1e-5 is usual for some hundred patients"
        )
    if not events:
        return 0.0
    bound = rdp_epsilon(events, delta)
    if bound > LARGEST_TIGHT_EPSILON:
        return bound
    by_pld, by_prv = pld_epsilon(events, delta), prv_epsilon(events, delta)
    # Written so that a number that is none (NaN) is refused as well.
    if not abs(by_pld - by_prv) <= max(_ABSOLUTE, _RELATIVE * max(by_pld, by_prv)):
        raise AccountingError(
            f"two accountants disagree: epsilon {by_pld:.4f} and {by_prv:.4f}", _REPORT_THIS
        )
    largest = max(by_pld, by_prv)
    if not largest <= bound + _ABSOLUTE:
        raise AccountingError(f"epsilon {largest:.4f} is above the Renyi bound {bound:.4f}", _REPORT_THIS)
    return largest


def pld_epsilon(events: Sequence[SampledGaussian], delta: float) -> float:
    """Return epsilon by privacy loss distributions, never below the true one."""
    return float(composed(events).get_epsilon_for_delta(delta))


def rdp_epsilon(events: Sequence[SampledGaussian], delta: float) -> float:
    """Return the upper bound by Renyi DP."""
    # Here and in pld.py and prv.py late: a second and a half that most processes never need.
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        noise = GaussianDpEvent(event.noise_multiplier)
        step = PoissonSampledDpEvent(event.sampling_rate, noise) if event.sampling_rate < 1 else noise
        try:
            accountant.compose(step, event.steps)
        except (OverflowError, ZeroDivisionError):  # next to no noise
            return math.inf
    return float(accountant.get_epsilon(delta))
