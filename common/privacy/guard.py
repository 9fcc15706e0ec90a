"""What must be true of a network and its loss before a patient's gradient may be trusted to it.

Opacus' validator passes networks that leak: a codebook kept by moving averages, BatchNorm without
parameters, a loss that mixes patients. So the properties themselves are tried out, on made-up rows, each
time a privately trained network is built:

    nothing but parameters changes in a call or a backward pass in train mode (moving averages, running
        statistics), neither buffers nor tensors that a module keeps in an attribute
    every trainable parameter has the gradient that plain autograd finds for a patient alone (layers that
        no sampler knows, or knows wrongly)
    a patient's loss and gradient do not depend on the others (BatchNorm, losses over a batch)

They are tried out on copies with random weights instead of the ones at hand: behind a convolution that
starts at zero, nothing shows. What it cannot see: constants that somebody computed from patients beforehand,
such as a latent scale. Those come from the public codebook, which a test of client/latent_store.py holds.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import PrivacyError
from common.privacy.patient_gradients import GradientEngine, RowLoss, Rows, count_rows, trainable

_TOLERANCE = 1e-3  # kernels sum in another order when the batch is another
_WEIGHTS_TRIED = 2
_SPREAD = 0.1  # deviation of the random weights


def refuse_leaks(module: nn.Module, loss: RowLoss, rows: Rows, engine: GradientEngine) -> None:
    """Return if a private step may use ``module``, ``loss`` and ``engine``.

    Args:
        module: The network with the parameters that are to be trained requiring gradients; it is not changed.
        loss: One loss per row.
        rows: Made-up rows, at least three and all different; no patient's.
        engine: What computes the gradient per patient.

    Raises:
        PrivacyError: One of the properties does not hold; the message says which, and where.
    """
    if not trainable(module):
        raise PrivacyError(
            "no parameter of the network is trained", "unfreeze the trainable set of the study"
        )
    _refuse_batch_statistics(module)
    for tried in _with_random_weights(module):
        _refuse_moving_state(tried, loss, rows, engine)
        _refuse_mixed_losses(tried, loss, rows)
        _refuse_wrong_gradients(tried, loss, rows, engine)


def _with_random_weights(module: nn.Module) -> Iterator[nn.Module]:
    """Yield copies in train mode whose weights are none that anybody chose."""
    for seed in range(_WEIGHTS_TRIED):
        generator = torch.Generator().manual_seed(seed)
        tried = copy.deepcopy(module).train()
        with torch.no_grad():
            for parameter in tried.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise, alpha=_SPREAD)
        yield tried


def _refuse_batch_statistics(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        running = isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
        if isinstance(layer, _BatchNorm) or running:
            raise PrivacyError(
                f"{name or 'the network'} is a {type(layer).__name__}, which mixes or remembers patients",
                "use GroupNorm",
            )


def _refuse_moving_state(module: nn.Module, loss: RowLoss, rows: Rows, engine: GradientEngine) -> None:
    before = _kept(module)
    with torch.no_grad():
        loss(module, rows)
    engine(module, loss, rows, [1] * count_rows(rows))
    after = _kept(module)
    for name, tensor in after.items():
        if name not in before or not torch.equal(tensor, before[name]):
            raise PrivacyError(
                f"{name} changes in a call, so it carries patients' data past the noise",
                "use a quantizer without moving averages (gradient or fsq), and no running statistics",
            )


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors that the network holds, whether or not its state names them."""
    found = dict(module.state_dict()) | dict(module.named_buffers())
    for path, layer in module.named_modules():
        for name, value in vars(layer).items():
            if isinstance(value, Tensor):
                found[f"{path}.{name}".lstrip(".")] = value
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _refuse_mixed_losses(module: nn.Module, loss: RowLoss, rows: Rows) -> None:
    with torch.no_grad():
        losses = loss(module, rows)
    num = count_rows(rows)
    if losses.shape != (num,):
        raise PrivacyError(
            f"the loss has shape {tuple(losses.shape)} for {num} rows", "return one loss for each row"
        )
    for index in range(num):
        with torch.no_grad():
            alone = loss(module, _row(rows, index))[0]
        if not torch.isclose(alone, losses[index], rtol=_TOLERANCE):
            raise PrivacyError(
                "a patient's loss depends on who else is in the batch",
                "return losses that treat rows one by one",
            )


def _refuse_wrong_gradients(module: nn.Module, loss: RowLoss, rows: Rows, engine: GradientEngine) -> None:
    trained = trainable(module)
    found = engine(module, loss, rows, [1] * count_rows(rows))
    for index in range(count_rows(rows)):
        exact = torch.autograd.grad(
            loss(module, _row(rows, index)).sum(),
            list(trained.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        whole = torch.stack([gradient.double().norm() for gradient in exact]).norm()
        if not whole > 0:
            raise PrivacyError("a made-up row has no gradient at all", "try the guard on other rows")
        for name, gradient in zip(trained, exact, strict=True):
            if name not in found or len(found[name]) != count_rows(rows):
                raise PrivacyError(f"{name} has no gradient per patient", "use another gradient engine")
            apart = (found[name][index] - gradient).double().norm()
            # Of its own size; a gradient that is zero but for rounding is measured by the whole one.
            if not apart <= _TOLERANCE * gradient.double().norm() + 1e-6 * whole:
                raise PrivacyError(
                    f"the gradient of {name} for one patient is not the one of that patient alone",
                    "use layers that treat rows one by one, or another gradient engine",
                )


def _row(rows: Rows, index: int) -> Rows:
    return {name: tensor[index : index + 1] for name, tensor in rows.items()}
