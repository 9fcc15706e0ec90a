"""The gradient of each patient's mean loss: three ways to the same numbers.

loop_gradients   one patient after the other by plain autograd: slow, obvious, the oracle
hook_gradients   one backward pass with per-row gradients by Opacus' hooks
vmap_gradients   torch.func.vmap over rows: for networks whose layers Opacus has no sampler for
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from common.errors import PrivacyError
from common.privacy.patient_gradients import Gradients, RowLoss, Rows, trainable


def loop_gradients(module: nn.Module, loss: RowLoss, rows: Rows, counts: Sequence[int]) -> Gradients:
    """Return them by one call of autograd per patient."""
    parameters = trainable(module)
    pieces = {name: torch.split(tensor, list(counts)) for name, tensor in rows.items()}
    found = []
    for index in range(len(counts)):
        own = {name: split[index] for name, split in pieces.items()}
        found.append(
            torch.autograd.grad(
                loss(module, own).mean(), list(parameters.values()), allow_unused=True, materialize_grads=True
            )
        )
    return {
        name: torch.stack(of_one) for name, of_one in zip(parameters, zip(*found, strict=True), strict=True)
    }


def hook_gradients(module: nn.Module, loss: RowLoss, rows: Rows, counts: Sequence[int]) -> Gradients:
    """Return them by one backward pass, in which hooks keep the rows of every layer's gradient apart."""
    from opacus import GradSampleModule  # late: the other two engines do without it

    import client.private.conv3d_sampler  # noqa: F401  registers the grouped sampler with Opacus

    parameters = trainable(module)
    watched: GradSampleModule | None = None
    try:
        watched = GradSampleModule(module, loss_reduction="sum", strict=True)
        _backward(module, loss, rows, parameters)
        per_row = {name: _rows_of(name, parameter, sum(counts)) for name, parameter in parameters.items()}
    finally:
        if watched is not None:
            watched.cleanup()
        _forget(module)
    return {name: _means(rows_of_one, counts) for name, rows_of_one in per_row.items()}


def vmap_gradients(module: nn.Module, loss: RowLoss, rows: Rows, counts: Sequence[int]) -> Gradients:
    """Return them by vectorising the gradient of one row."""
    parameters = {name: p.detach() for name, p in trainable(module).items()}
    whole = _LossOf(module, loss)

    def loss_of_row(trained: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        alone = {name: tensor.unsqueeze(0) for name, tensor in row.items()}
        state = {f"module.{name}": p for name, p in trained.items()}
        result: Tensor = functional_call(whole, state, (alone,)).squeeze(0)
        return result

    per_row = vmap(grad(loss_of_row), in_dims=(None, 0))(parameters, dict(rows))
    return {name: _means(rows_of_one, counts) for name, rows_of_one in per_row.items()}


def _backward(module: nn.Module, loss: RowLoss, rows: Rows, parameters: Mapping[str, nn.Parameter]) -> None:
    """Let the hooks see one backward pass, without the sums over rows that it would make beside them.

    Those of convolutions and linear layers take a third of a pass and are thrown away. They are left out by
    asking for other gradients: of all parameters but theirs, and of their inputs, which every pass goes by.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv3d | nn.Linear)]
    heavy = {id(own) for layer in layers for own in layer.parameters(recurse=False)}
    asked: list[Tensor] = [p for p in parameters.values() if id(p) not in heavy]

    def open_a_path(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
        first, *others = inputs
        if first.requires_grad:
            return inputs
        asked.append(first.detach().requires_grad_())
        return (asked[-1], *others)

    handles = [layer.register_forward_pre_hook(open_a_path) for layer in layers]
    try:
        total = loss(module, rows).sum()
        with warnings.catch_warnings():
            # An embedding's input has no gradient, which PyTorch's full backward hooks remark on.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            if asked:
                torch.autograd.backward(total, inputs=asked)
    finally:
        for handle in handles:
            handle.remove()


def _forget(module: nn.Module) -> None:
    """Take off what a pass leaves on layers: after a failed one it would be added to the next patient's."""
    for layer in module.modules():
        for left in ("activations", "max_batch_len"):
            if left in vars(layer):
                delattr(layer, left)
    for parameter in module.parameters():
        parameter.grad = None


class _LossOf(nn.Module):
    """The loss as a module, so that `functional_call` can replace the network's parameters."""

    def __init__(self, module: nn.Module, loss: RowLoss) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        return self._loss(self.module, rows)


def _rows_of(name: str, parameter: nn.Parameter, num: int) -> Tensor:
    """Return the gradient of every row; a parameter that no row reached has zeros."""
    found = getattr(parameter, "grad_sample", None)
    if found is None:
        return parameter.new_zeros((num, *parameter.shape))
    if not isinstance(found, Tensor) or len(found) != num:
        raise PrivacyError(
            f"parameter {name} has no gradient for each of {num} rows",
            "its layer mixes rows or is called more than once: use vmap_gradients",
        )
    return found


def _means(per_row: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the mean over the rows of each patient."""
    if max(counts) == 1:
        return per_row  # copying all gradients would take a fifth of a step
    return torch.stack([own.mean(dim=0) for own in torch.split(per_row, list(counts))])
