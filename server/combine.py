r"""How one round's reports become one set of tensors: a weighted mean, or a rule that bounds a bad site.

With θ the model that the round started from and δ_k = θ_k - θ what site k changed,

    mean            Σ w_k θ_k / Σ w_k                                (McMahan et al. 2017, Algorithm 1)
    norm_clipping   θ + Σ w_k c_k δ_k / Σ w_k, c_k = min(1, a m / ‖δ_k‖), m the median of the norms
    median          coordinate by coordinate                         (Yin et al. 2018, Definition 1)
    trimmed_mean    coordinate by coordinate, without the b largest and smallest  (Yin et al. 2018, Def. 2)
    krum            the θ_k nearest to its n - f - 2 nearest others  (Blanchard et al. 2017)

All go tensor by tensor in site-name order, so that memory does not grow with the number of sites (mean, krum)
or by one tensor each (the others), and arithmetic is float64. What is refused for codebook sums
says `common.study`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.codec.codebook import is_codebook_sum
from common.federation.aggregation import (
    KrumConfig,
    MeanConfig,
    MedianConfig,
    NormClippingConfig,
    TrimmedMeanConfig,
)
from common.federation.config import FederationConfig
from common.federation.messages import TrainReport
from common.federation.update import Update, total

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Combined:
    """What the reports amount to.

    Attributes:
        tensors: By name, float64.
        shares: Part of each site's change that counts, by site: what a coordinator must be told of.
    """

    tensors: dict[str, Tensor]
    shares: dict[str, float]


def combined(reports: Sequence[TrainReport], current: Tensors, federation: FederationConfig) -> Combined:
    """Return what ``reports`` amount to by the study's rule.

    Args:
        reports: Valid reports; whatever order they are given in.
        current: Tensors that the round started from.
        federation: Rule and weights.
    """
    ordered = sorted(reports, key=lambda report: report.site)
    sites = [report.site for report in ordered]
    given = [report.parameters for report in ordered]
    weights = [federation.weight(site) for site in sites]
    shares = [1.0] * len(sites)
    match federation.aggregation:
        case MeanConfig():
            tensors = {name: _mean(name, given, weights) for name in current}
        case NormClippingConfig(times_median=times):
            shares, tensors = _clipped_mean(given, current, weights, times)
        case MedianConfig():
            tensors = {name: _trimmed(name, given, (len(given) - 1) // 2) for name in current}
        case TrimmedMeanConfig(trim=trim):
            tensors = {name: _trimmed(name, given, trim) for name in current}
        case KrumConfig(faulty=faulty):
            chosen = krum(_squared_distances(given, list(current)), faulty)
            shares = [float(index == chosen) for index in range(len(sites))]
            tensors = {name: given[chosen][name].to(torch.float64) for name in current}
    return Combined(tensors, dict(zip(sites, shares, strict=True)))


def krum(squared_distances: Tensor, faulty: int) -> int:
    """Return which vector is nearest to its neighbours; the first of equals (Blanchard et al. 2017, Eq. 4).

    Args:
        squared_distances: Between any two [vector, vector].
        faulty: f, how many may be anything.
    """
    others = squared_distances + torch.diag(torch.full((len(squared_distances),), torch.inf))
    nearest = others.sort(dim=1).values[:, : len(squared_distances) - faulty - 2]
    return int(nearest.sum(dim=1).argmin())


def _mean(name: str, given: Sequence[Tensors], weights: Sequence[float]) -> Tensor:
    pairs = zip(given, weights, strict=True)
    return total(Update.of({name: tensors[name]}, weight) for tensors, weight in pairs).mean()[name]


def _trimmed(name: str, given: Sequence[Tensors], trim: int) -> Tensor:
    stacked = torch.stack([tensors[name] for tensors in given]).sort(dim=0).values
    return stacked[trim : len(given) - trim].double().mean(dim=0)


def _clipped_mean(
    given: Sequence[Tensors], current: Tensors, weights: Sequence[float], times: float
) -> tuple[list[float], dict[str, Tensor]]:
    """Return how much of each site counts at least, and the mean of what does.

    Codebook sums and parameters are of different sizes and clipped each by itself. A part of a change of
    sums is itself one of sums: counts stay at or above zero and add up to what they did.
    """
    shares, mean = [1.0] * len(given), {}
    for group in _groups(current):
        norms = [_norm(tensors, current, group) for tensors in given]
        limit = times * float(np.median(norms))
        parts = [1.0 if norm <= limit else limit / norm for norm in norms]
        shares = [min(share, part) for share, part in zip(shares, parts, strict=True)]
        for name in group:
            start = current[name].double()
            changes = [
                Update.of({name: part * (tensors[name].double() - start)}, weight)
                for tensors, part, weight in zip(given, parts, weights, strict=True)
            ]
            mean[name] = start + total(changes).mean()[name]
    return shares, {name: mean[name] for name in current}


def _groups(current: Tensors) -> list[list[str]]:
    sums = [name for name in current if is_codebook_sum(name)]
    parameters = [name for name in current if not is_codebook_sum(name)]
    return [group for group in (parameters, sums) if group]


def _norm(tensors: Tensors, current: Tensors, names: Sequence[str]) -> float:
    squares = (float((tensors[name].double() - current[name].double()).square().sum()) for name in names)
    return float(np.sqrt(sum(squares)))


def _squared_distances(given: Sequence[Tensors], names: Sequence[str]) -> Tensor:
    distances = torch.zeros(len(given), len(given), dtype=torch.float64)
    for name in names:
        for row in range(len(given)):
            one = given[row][name].double()
            for column in range(row):
                apart = (one - given[column][name].double()).square().sum()
                distances[row, column] += apart
                distances[column, row] += apart
    return distances
