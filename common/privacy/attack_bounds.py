"""What epsilon and delta mean to an attacker who wants to know whether a patient took part.

Differential privacy bounds every membership test by a trade-off curve (Wasserman & Zhou 2010; Dong et
al. 2022): at false positive rate a no test finds more than

    tpr(a) = min over e >= 0 of   e^e a + delta(e)   and   1 - e^-e (1 - delta'(e) - a)

of the members, with delta and delta' the privacy profiles of removing and of adding a patient. The
curve says far more than one (epsilon, delta): at epsilon 8 that alone allows everything at a rate of 1 %.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.privacy.events import SampledGaussian
from common.privacy.pld import composed

Curve = NDArray[np.float64]

_LARGEST_EPSILON, _EPSILONS = 60.0, 2401
_RATES: Curve = np.concatenate([[0.0], np.logspace(-6, 0, 3001)])


class AttackBounds(NamedTuple):
    """Upper bounds on any membership test, with any knowledge besides the patient's presence.

    Attributes:
        auc: Largest area under the ROC curve; 0.5 is guessing.
        tpr_at_1_percent: Largest true positive rate at a false positive rate of 1 %.
        false_positive_rates: From 0 to 1.
        true_positive_rates: The largest ones there, of the worse of adding and removing.
    """

    auc: float
    tpr_at_1_percent: float
    false_positive_rates: Curve
    true_positive_rates: Curve


def attack_bounds(events: Sequence[SampledGaussian]) -> AttackBounds:
    """Return what the composed events allow at most."""
    total = composed(events)
    epsilons = np.linspace(0, _LARGEST_EPSILON, _EPSILONS)
    # dp-accounting offers only the larger of the two; they are attributes of its pinned version.
    removed = np.asarray(total._pmf_remove.get_delta_for_epsilon(epsilons))
    added = np.asarray(total._pmf_add.get_delta_for_epsilon(epsilons))
    curves = [_curve(epsilons, removed, added), _curve(epsilons, added, removed)]
    # One is the other mirrored, so their areas are equal; at a given rate they are not.
    worst = np.maximum(*curves)
    return AttackBounds(
        auc=min(1.0, float(np.trapezoid(curves[0], _RATES))),
        tpr_at_1_percent=float(np.interp(0.01, _RATES, worst)),
        false_positive_rates=_RATES,
        true_positive_rates=worst,
    )


def _curve(epsilons: Curve, profile: Curve, mirrored: Curve) -> Curve:
    """Return the largest true positive rate at every false positive rate."""
    growth = np.exp(epsilons)[:, None]
    upper = growth * _RATES + profile[:, None]
    lower = 1 - (1 - mirrored[:, None] - _RATES) / growth
    curve: Curve = np.minimum(1.0, np.minimum(upper, lower).min(axis=0))
    return curve
