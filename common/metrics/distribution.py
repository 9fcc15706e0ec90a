"""How far a set of synthetic volumes is from a set of real ones.

    MMD²(X, Y) = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(x, y) = exp(-‖x - y‖² / 2h²)

estimated without bias (Gretton et al. 2012, Eq. 3: the diagonal is left out, so a value below zero
is a fair draw, not a fault), with h the median distance among real TRAINING features. The Frechet
distance between two Gaussians fitted to at most eight principal components is descriptive only: it
supposes normality and is biased upwards for small sets. Neither number means anything alone: the
floor is the same number between two sets of real patients, with the same n, one volume per patient.

>>> same = torch.zeros(4, 2)
>>> mmd_squared(same, same, bandwidth=1.0)
0.0
"""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import MetricError
from common.metrics.reconstruction import SliceAxis, ms_ssim
from common.shapes import VolumeBatch

Features = Float[Tensor, "batch feature"]

MAX_COMPONENTS = 8
_PAIRS_PER_CALL = 16


def median_bandwidth(real_training: Features) -> float:
    """Return the median distance between two different real training volumes.

    Raises:
        MetricError: Fewer than two volumes, or most of them are identical.
    """
    distances = torch.pdist(real_training.double())
    if len(distances) == 0 or float(distances.median()) == 0:
        raise MetricError(
            f"the median distance among {len(real_training)} real training volumes is not positive",
            "give at least 2 volumes that differ",
        )
    return float(distances.median())


def gaussian_kernel(first: Features, second: Features, bandwidth: float) -> Float[Tensor, "n m"]:
    """Return exp(-‖x - y‖² / 2h²) for all pairs, in float64."""
    # The direct form: ‖x‖² + ‖y‖² - 2xy loses the digits of near pairs.
    distances = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-distances.square() / (2 * bandwidth**2))


def mmd_squared(first: Features, second: Features, bandwidth: float) -> float:
    """Return the unbiased estimate of MMD² between two sets of the same size.

    Args:
        first: Standardised features, one row per patient or synthetic volume.
        second: As many rows.
        bandwidth: The kernel's h, from `median_bandwidth` of real training features.

    Raises:
        MetricError: Sizes differ, or fewer than two rows.
    """
    n = _equal_size(first, second)
    within = sum(
        (gaussian_kernel(rows, rows, bandwidth).sum() - n) / (n * (n - 1)) for rows in (first, second)
    )
    return float(within - 2 * gaussian_kernel(first, second, bandwidth).mean())


@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which real training features vary most; in float64.

    Attributes:
        mean: Mean of the real training features.
        directions: Orthonormal columns, the largest variance first.
    """

    mean: Float[Tensor, " feature"]
    directions: Float[Tensor, "feature component"]

    @classmethod
    def fit(cls, real_training: Features, num_components: int = MAX_COMPONENTS) -> "PrincipalComponents":
        """Return the components of these features, fewer where the volumes span fewer.

        Raises:
            MetricError: More than 8 components asked (a covariance of more cannot be estimated from
                some tens of patients), or fewer than two volumes.
        """
        if not 1 <= num_components <= MAX_COMPONENTS or len(real_training) < 2:
            raise MetricError(
                f"{num_components} components of {len(real_training)} real training volumes",
                f"ask for 1 to {MAX_COMPONENTS} components and give at least 2 volumes",
            )
        features = real_training.double()
        mean = features.mean(dim=0)
        _, strengths, directions = torch.linalg.svd(features - mean, full_matrices=False)
        spanned = int((strengths > strengths[0] * 1e-9).sum())
        return cls(mean=mean, directions=directions[: min(num_components, spanned)].T)

    def __call__(self, features: Features) -> Float[Tensor, "batch component"]:
        """Return the coordinates along the components."""
        return (features.double() - self.mean) @ self.directions


def frechet_distance(first: Features, second: Features) -> float:
    """Return ‖m₁ - m₂‖² + tr(S₁ + S₂ - 2 (S₁^½ S₂ S₁^½)^½) (Dowson & Landau 1982, Eq. 4).

    Args:
        first: Principal-component coordinates, one row per patient or synthetic volume.
        second: As many rows.

    Raises:
        MetricError: Sizes differ, fewer than two rows, or more than 8 columns.
    """
    _equal_size(first, second)
    size = first.shape[1]
    if size > MAX_COMPONENTS:
        raise MetricError(
            f"Frechet distance over {size} features: the covariance of so many is not estimable",
            f"project them on at most {MAX_COMPONENTS} PrincipalComponents of real training features",
        )
    means = [rows.double().mean(dim=0) for rows in (first, second)]
    covariances = [torch.cov(rows.double().T).reshape(size, size) for rows in (first, second)]
    root = _symmetric_root(covariances[0])
    overlap = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    spread = sum(covariance.trace() for covariance in covariances)
    return float((means[0] - means[1]).square().sum() + spread - 2 * overlap)


def mean_pairwise_ms_ssim(
    volumes: VolumeBatch, num_pairs: int, generator: torch.Generator, slice_axis: SliceAxis | None = None
) -> float:
    """Return the mean MS-SSIM over random pairs of different volumes: near 1 is mode collapse.

    Report it for the synthetic beside the same for real patients: the lower is not the better, as
    noise would win.

    Args:
        volumes: One per patient, in [-1, 1].
        num_pairs: Pairs drawn without repetition; all pairs are used if there are no more.
        generator: Draws the pairs; on the CPU.
        slice_axis: See `ms_ssim`.

    Raises:
        MetricError: Fewer than two volumes, or no pairs asked.
    """
    if len(volumes) < 2 or num_pairs < 1:
        raise MetricError(f"{num_pairs} pairs of {len(volumes)} volumes", "ask for 1 pair of 2 or more")
    pairs = torch.combinations(torch.arange(len(volumes)))
    chosen = pairs[torch.randperm(len(pairs), generator=generator)[:num_pairs]].to(volumes.device)
    values = [
        ms_ssim(volumes[part[:, 0]], volumes[part[:, 1]], slice_axis)
        for part in torch.split(chosen, _PAIRS_PER_CALL)
    ]
    return float(torch.cat(values).mean())


def subsample(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` of the indices 0 ... ``count`` - 1 in ascending order, to make sets equal.

    Raises:
        MetricError: There are fewer than ``size``.
    """
    if not 1 <= size <= count:
        raise MetricError(f"{size} volumes out of {count}", "ask for fewer, or draw more volumes")
    return torch.randperm(count, generator=generator)[:size].sort().values


def one_per_patient(patients: Sequence[str], generator: torch.Generator) -> Tensor:
    """Return the index of one volume of each patient, drawn at random, in name order of patients."""
    of_patient: dict[str, list[int]] = {name: [] for name in sorted(patients)}
    for index, name in enumerate(patients):
        of_patient[name].append(index)
    draws = torch.rand(len(of_patient), generator=generator).tolist()
    return torch.tensor([own[int(u * len(own))] for own, u in zip(of_patient.values(), draws, strict=True)])


def _equal_size(first: Features, second: Features) -> int:
    """Return n; unequal sets are refused because the spread of an estimate depends on n."""
    if first.shape[1] != second.shape[1]:
        raise MetricError(
            f"{first.shape[1]} features against {second.shape[1]}", "use one extractor for both sets"
        )
    if len(first) != len(second):
        raise MetricError(
            f"sets of {len(first)} and {len(second)} volumes: a distance and its floor need equal n",
            f"draw {min(len(first), len(second))} of the larger with `subsample` and a seed",
        )
    if len(first) < 2:
        raise MetricError(f"a set of {len(first)} volumes has no spread", "give at least 2 volumes")
    return len(first)


def _symmetric_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
