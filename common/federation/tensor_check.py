"""Whether tensors are those that were expected: the check of orders at a site, of reports at both ends."""

from collections.abc import Mapping

import torch
from torch import Tensor


def first_difference(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return the first thing that is wrong with names, shapes or dtypes; None if nothing is.

    >>> first_difference({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
    'tensor w is (2,) torch.float32, expected (3,) torch.float32'
    """
    if given.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        return f"tensors missing {missing[:3]}, not asked for {extra[:3]}"
    for name, reference in expected.items():
        tensor = given[name]
        if tensor.shape != reference.shape or tensor.dtype != reference.dtype:
            return (
                f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"expected {tuple(reference.shape)} {reference.dtype}"
            )
    return None


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with the first tensor that holds something else than numbers."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            return f"tensor {name} is not finite"
    return None
