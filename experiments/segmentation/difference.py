"""How sure a difference between two arms is, over what would be new if the experiment were made again.

Arms are measured on the same test patients, from the same pretraining seeds and, within each, the same
fine-tuning seeds (label subset and initialisation). Fine-tunings that share a pretrained network share its
luck, so the unit is the pretraining seed: its fine-tunings are averaged first. Two intervals stand beside
each other:

- `paired_t`: Student's over the pretraining seeds' means; holds for these test patients.
- `bootstrap_t`: studentised, pretraining seeds and patients drawn again independently (Owen 2007, the
  pigeonhole bootstrap); holds for other patients of this kind too. The standard error is that of a table
  with two random factors (Searle, Casella & McCulloch 1992, Section 4.6).

>>> differences = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]])
>>> found = paired_t(differences)
>>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
(2.0, -0.484, 4.484)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import MetricError
from common.metrics.bootstrap import LEVEL, Interval, resample_counts

NUM_RESAMPLES = 4000
Differences = Float[Tensor, "pretraining seed patient"]
_TINY = 1e-12  # of the variance of the data: below it a resample has none
_ROUNDING = 1e-12  # of the largest value: what sums in another order differ by, on other processors


@dataclass(frozen=True)
class Difference:
    """One arm minus another.

    Attributes:
        paired_t: Interval for these test patients.
        bootstrap_t: Interval for such patients.
        p_value: Two-sided, of the paired t-test.
    """

    paired_t: Interval
    bootstrap_t: Interval
    p_value: float

    @property
    def estimate(self) -> float:
        """The mean difference."""
        return self.paired_t.estimate

    @property
    def above_zero(self) -> bool:
        """Whether both intervals are: no other difference may be called an improvement."""
        return min(self.paired_t.low, self.bootstrap_t.low) > 0


def difference_of(differences: Differences, generator: torch.Generator) -> Difference:
    """Return both intervals of one arm minus another.

    Args:
        differences: One arm's measure minus the other's.
        generator: Draws the resamples; on the CPU.

    Raises:
        MetricError: Fewer than two pretraining seeds or patients, or a value that is not finite.
    """
    t = paired_t(differences)
    return Difference(t, bootstrap_t(differences, generator), _p_value(_by_pretraining(differences).mean(1)))


def paired_t(differences: Differences, level: float = LEVEL) -> Interval:
    """Return Student's interval over the pretraining seeds' mean differences.

    Raises:
        MetricError: See `difference_of`.
    """
    from scipy import stats  # half a second that most commands never need

    means = _by_pretraining(differences).mean(dim=1)
    estimate, error = float(means.mean()), _error_of(means)
    half = float(stats.t.ppf((1 + level) / 2, len(means) - 1)) * error
    return Interval(estimate, estimate - half, estimate + half, level)


def bootstrap_t(
    differences: Differences,
    generator: torch.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the studentised bootstrap interval over pretraining seeds and patients.

    A resample that drew one thing again and again has no error of its own; it counts as infinitely far
    out, on the side where its mean lies.

    Raises:
        MetricError: See `difference_of`.
    """
    table = _by_pretraining(differences)
    rows, columns = (resample_counts(size, num_resamples, generator) for size in table.shape)
    once = (torch.ones(1, size, dtype=torch.float64) for size in table.shape)
    (estimate,), (variance,) = _mean_and_variance(table, *once)
    means, variances = _mean_and_variance(table, rows, columns)
    away, rounding = means - estimate, _ROUNDING * table.abs().max()
    away = torch.where(away.abs() <= rounding, 0.0, away)
    has_error = variances > torch.maximum(_TINY * table.var(), rounding.square())
    studentised = torch.where(has_error, away / variances.clamp_min(0).sqrt(), away.sign() * torch.inf)
    studentised = torch.where(away == 0, 0.0, studentised)
    tail = (1 - level) / 2
    low, high = (
        float(studentised.kthvalue(_rank(share, num_resamples)).values) for share in (tail, 1 - tail)
    )
    error = float(variance) ** 0.5 if variance > rounding.square() else 0.0
    mean = float(estimate)
    return Interval(mean, mean - _times(high, error), mean - _times(low, error), level)


def _by_pretraining(differences: Differences) -> Float[Tensor, "pretraining patient"]:
    if not bool(differences.isfinite().all()):
        raise MetricError("a difference is not finite", "look for the run whose measure is none")
    table = differences.double().mean(dim=1)
    if min(table.shape) < 2:
        raise MetricError(
            f"{table.shape[0]} pretraining seeds and {table.shape[1]} patients give no interval",
            "give at least 2 of each",
        )
    return table


def _mean_and_variance(
    table: Float[Tensor, "pretraining patient"],
    rows: Float[Tensor, "resample pretraining"],
    columns: Float[Tensor, "resample patient"],
) -> tuple[Float[Tensor, " resample"], Float[Tensor, " resample"]]:
    """Return each resample's mean, and the variance of that mean with both factors random.

    The variance is (MS rows + MS columns - MS rest) / (rows x columns), or that of the larger factor alone
    where the rest outweighs the smaller.
    """
    num_rows, num_columns = table.shape
    of_row, of_column = columns @ table.T / num_columns, rows @ table / num_rows
    mean = (rows * of_row).sum(dim=1) / num_rows
    between_rows = num_columns * (rows * (of_row - mean[:, None]).square()).sum(dim=1)
    between_columns = num_rows * (columns * (of_column - mean[:, None]).square()).sum(dim=1)
    total = ((rows @ table.square()) * columns).sum(dim=1) - num_rows * num_columns * mean.square()
    rest = (total - between_rows - between_columns) / ((num_rows - 1) * (num_columns - 1))
    of_rows, of_columns = between_rows / (num_rows - 1), between_columns / (num_columns - 1)
    both = torch.maximum(of_rows + of_columns - rest, torch.maximum(of_rows, of_columns))
    return mean, both / (num_rows * num_columns)


def _p_value(means: Float[Tensor, " pretraining"]) -> float:
    """Return the two-sided p-value of Student's test that the mean is zero."""
    from scipy import stats  # half a second that most commands never need

    error = _error_of(means)
    if error == 0:
        return 1.0 if float(means.mean()) == 0 else 0.0
    return 2 * float(stats.t.sf(abs(float(means.mean())) / error, len(means) - 1))


def _error_of(means: Float[Tensor, " pretraining"]) -> float:
    error = float(means.std() / len(means) ** 0.5)
    return error if error > _ROUNDING * float(means.abs().max()) else 0.0


def _rank(share: float, num: int) -> int:
    """Return the rank, from 1, of the value that ``share`` of ``num`` are not above."""
    return min(num, max(1, round(share * (num + 1))))


def _times(factor: float, error: float) -> float:
    """Return the product, where nothing of an infinite factor is left without an error."""
    return factor * error if error else 0.0
