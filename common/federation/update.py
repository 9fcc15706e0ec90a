r"""The algebra of aggregation: weighted sums that add, and are divided once at the end.

A site's contribution is (w_k θ_k, w_k) with a public weight w_k; contributions add; the mean is

    θ = Σ w_k θ_k / Σ w_k                                     (McMahan et al. 2017, Algorithm 1)

Sums are float64, so that the float32 parameters of one site, or of two equal sites, come back bit
for bit, and so that the order of addition changes nothing that survives the cast to float32.
Codebook counts and vector sums are aggregated by the same formula: the ratio of two weighted sums
is the code of the union of the sites.

>>> a = Update.of({"w": torch.tensor([1.0])}, weight=1.0)
>>> b = Update.of({"w": torch.tensor([4.0])}, weight=2.0)
>>> (a + b).mean()["w"]
tensor([3.], dtype=torch.float64)
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from common.errors import FederationError


@dataclass(frozen=True)
class Update:
    """A weighted sum of named tensors.

    Attributes:
        sums: Σ w_k θ_k in float64.
        weight: Σ w_k.
    """

    sums: Mapping[str, Tensor]
    weight: float

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], weight: float) -> "Update":
        """Return the contribution of one site."""
        if not weight > 0:
            raise FederationError(f"weight {weight} is not positive", "mend federation.weights")
        return cls({name: tensor.to(torch.float64) * weight for name, tensor in tensors.items()}, weight)

    def __add__(self, other: "Update") -> "Update":
        if self.sums.keys() != other.sums.keys():
            different = sorted(self.sums.keys() ^ other.sums.keys())
            raise FederationError(
                f"updates differ in {different[:3]}", "all sites must train the same tensors"
            )
        return Update(
            {name: value + other.sums[name] for name, value in self.sums.items()}, self.weight + other.weight
        )

    def mean(self) -> dict[str, Tensor]:
        """Return Σ w_k θ_k / Σ w_k in float64."""
        return {name: value / self.weight for name, value in self.sums.items()}


def total(updates: Iterable[Update]) -> Update:
    """Return the sum, added in the order given.

    Raises:
        FederationError: There is nothing to add.
    """
    remaining = iter(updates)
    first = next(remaining, None)
    if first is None:
        raise FederationError("no update to aggregate", "wait for more sites")
    return reduce(operator.add, remaining, first)
