"""The contract of per-patient gradients: what an engine gets, what it returns.

A row is one volume with one draw of noise and augmentation. All rows of a patient are averaged before
anything else happens, so that a patient counts once however many volumes there are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

Rows = Mapping[str, Tensor]
"""Tensors whose first axis counts rows; the rows of a patient follow one another."""

RowLoss = Callable[[nn.Module, Rows], Tensor]
"""One loss per row; row i's loss must not depend on other rows."""

Gradients = dict[str, Tensor]
"""By parameter name; the first axis counts patients."""


class GradientEngine(Protocol):
    """A way to get the gradient of every patient's mean loss."""

    def __call__(self, module: nn.Module, loss: RowLoss, rows: Rows, counts: Sequence[int]) -> Gradients:
        """Return the gradients of the trainable parameters of ``module``.

        Args:
            module: The network; its parameters and their ``grad`` are left as they were.
            loss: One loss per row.
            rows: At least one row.
            counts: Rows of each patient, in order; each at least one.
        """
        ...


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def count_rows(rows: Rows) -> int:
    """Return how many rows there are."""
    return len(next(iter(rows.values())))
