"""Intervals by resampling patients: percentile bootstrap (Efron & Tibshirani 1993, Section 13.3).

The patient is what is drawn again, never the volume: two scans of one person are not two people.
Every interval holds for the one trained model at hand: what another training seed would change is
not in it, and a table of such intervals has to say so.

>>> generator = torch.Generator().manual_seed(0)
>>> bootstrap_mean({"a": 2.0, "b": 2.0}, generator)
Interval(estimate=2.0, low=2.0, high=2.0, level=0.95)
"""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import MetricError
from common.metrics.distribution import Features, gaussian_kernel, mmd_squared

NUM_RESAMPLES = 2000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the percentile interval of its resamples.

    Attributes:
        estimate: The value from the data themselves.
        low: Lower end.
        high: Upper end.
        level: The share of resamples between the ends.
    """

    estimate: float
    low: float
    high: float
    level: float


def bootstrap_mean(
    by_patient: Mapping[str, float],
    generator: torch.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the mean over patients with its interval.

    Args:
        by_patient: One value per patient, from `patient_means`.
        generator: Draws the resamples; on the CPU.
        num_resamples: How many.
        level: Share of resamples inside.

    Raises:
        MetricError: Fewer than two patients, or a value that is not finite.
    """
    values = torch.tensor([by_patient[name] for name in sorted(by_patient)], dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise MetricError("a patient's value is not finite", "leave that patient out and say so")
    counts = resample_counts(len(values), num_resamples, generator)
    return _interval(float(values.mean()), counts @ values / len(values), level)


def bootstrap_paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    generator: torch.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of first - second, both measured on the same patients, with its interval.

    Raises:
        MetricError: The patients differ, there are fewer than two, or a value is not finite.
    """
    if first.keys() != second.keys():
        unpaired = sorted(first.keys() ^ second.keys())
        raise MetricError(
            f"{len(unpaired)} patients have one value only, '{unpaired[0]}' first",
            "evaluate both models on the same patients",
        )
    differences = {name: first[name] - second[name] for name in first}
    return bootstrap_mean(differences, generator, num_resamples=num_resamples, level=level)


def bootstrap_mmd(
    real: Features,
    synthetic: Features,
    bandwidth: float,
    generator: torch.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return MMD² with the interval from resampling the rows of each set.

    Between sets of one distribution the estimate is degenerate and the interval too wide: it says how
    sure a distance is, it is no test of equality. `bootstrap_mmd_difference` is what compares.

    Args:
        real: Standardised features of real patients, one row each.
        synthetic: Of as many synthetic volumes.
        bandwidth: See `mmd_squared`.
        generator: Draws the resamples; on the CPU.
        num_resamples: How many.
        level: Share of resamples inside.

    Raises:
        MetricError: See `mmd_squared`.
    """
    estimate = mmd_squared(real, synthetic, bandwidth)
    real_counts, synthetic_counts = (
        resample_counts(len(rows), num_resamples, generator).to(rows.device) for rows in (real, synthetic)
    )
    resamples = (
        _within(gaussian_kernel(real, real, bandwidth), real_counts)
        + _within(gaussian_kernel(synthetic, synthetic, bandwidth), synthetic_counts)
        - 2 * _between(gaussian_kernel(real, synthetic, bandwidth), real_counts, synthetic_counts)
    )
    return _interval(estimate, resamples, level)


def bootstrap_mmd_difference(
    real: Features,
    first: Features,
    second: Features,
    bandwidth: float,
    generator: torch.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return MMD²(real, first) - MMD²(real, second) with its interval: negative, and first is nearer.

    The real patients are drawn once for both distances, so their term cancels; the two sets of
    synthetic volumes are drawn each on its own.

    Raises:
        MetricError: See `mmd_squared`.
    """
    estimate = mmd_squared(real, first, bandwidth) - mmd_squared(real, second, bandwidth)
    real_counts = resample_counts(len(real), num_resamples, generator).to(real.device)
    terms = []
    for rows in (first, second):
        counts = resample_counts(len(rows), num_resamples, generator).to(rows.device)
        within = _within(gaussian_kernel(rows, rows, bandwidth), counts)
        terms.append(within - 2 * _between(gaussian_kernel(real, rows, bandwidth), real_counts, counts))
    return _interval(estimate, terms[0] - terms[1], level)


def resample_counts(
    num_patients: int, num_resamples: int, generator: torch.Generator
) -> Float[Tensor, "resample patient"]:
    """Return how often each resample draws each patient."""
    if num_patients < 2:
        raise MetricError(f"{num_patients} patients cannot be resampled", "give at least 2 patients")
    draws = torch.randint(num_patients, (num_resamples, num_patients), generator=generator)
    counts = torch.zeros(num_resamples, num_patients, dtype=torch.float64)
    return counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))


def _within(kernel: Float[Tensor, "n n"], counts: Float[Tensor, "resample n"]) -> Float[Tensor, " resample"]:
    """Return each resample's mean kernel between DIFFERENT patients.

    A resample holds some patients twice. A patient against himself has kernel 1 whatever the
    distribution is; such pairs are left out, or every resample would look denser than the data.
    """
    off_diagonal = kernel - torch.diag(kernel.diagonal())
    pairs = counts.sum(dim=1).square() - counts.square().sum(dim=1)
    # All draws the same patient (probability n^(1-n)): no pair of different patients, kernel 1.
    return torch.where(pairs > 0, ((counts @ off_diagonal) * counts).sum(dim=1) / pairs.clamp_min(1), 1.0)


def _between(
    kernel: Float[Tensor, "n m"], rows: Float[Tensor, "resample n"], columns: Float[Tensor, "resample m"]
) -> Float[Tensor, " resample"]:
    return ((rows @ kernel) * columns).sum(dim=1) / (rows.sum(dim=1) * columns.sum(dim=1))


def _interval(estimate: float, resamples: Float[Tensor, " resample"], level: float) -> Interval:
    if not 0 < level < 1:
        raise MetricError(f"level {level} is not between 0 and 1", "use 0.95")
    tail = (1 - level) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64, device=resamples.device)
    low, high = resamples.quantile(ends).tolist()
    return Interval(estimate=estimate, low=low, high=high, level=level)
