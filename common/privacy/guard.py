"""What must be true of a network and its loss before a patient's gradient may be trusted to it.

Opacus' validator passes networks that leak: a codebook kept by moving averages, BatchNorm without
parameters, a loss that mixes patients. So the properties themselves are tried out, on made-up rows, each
time a privately trained network is built:

    nothing but parameters changes in a call in train mode    (moving averages, running statistics)
    every trainable parameter has a gradient per patient      (layers that no sampler knows)
    a patient's loss and gradient do not depend on the others (BatchNorm, losses over a batch)

What it cannot see: constants that somebody computed from patients beforehand, such as a latent scale. Those
come from the public codebook (common/diffusion/latent_scale.py), which a test of that file holds.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import PrivacyError

Rows = Mapping[str, Tensor]
RowLoss = Callable[[nn.Module, Rows], Tensor]
Engine = Callable[[nn.Module, RowLoss, Rows, Sequence[int]], dict[str, Tensor]]

_TOLERANCE = 1e-3  # kernels sum in another order when the batch is another


def refuse_leaks(module: nn.Module, loss: RowLoss, rows: Rows, engine: Engine) -> None:
    """Return if a private step may use ``module``, ``loss`` and ``engine``.

    Args:
        module: The network with the parameters that are to be trained requiring gradients. It is tried
            out in train mode and left in the mode that it had.
        loss: One loss per row.
        rows: Made-up rows, at least three and all different; no patient's.
        engine: What computes the gradient per patient.

    Raises:
        PrivacyError: One of the properties does not hold; the message says which, and where.
    """
    mode = module.training
    module.train()
    try:
        _refuse_batch_statistics(module)
        _refuse_moving_state(module, loss, rows)
        _refuse_mixed_patients(module, loss, rows, engine)
    finally:
        module.train(mode)


def _refuse_batch_statistics(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        running = isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
        if isinstance(layer, _BatchNorm) or running:
            raise PrivacyError(
                f"{name or 'the network'} is a {type(layer).__name__}, which mixes or remembers patients",
                "use GroupNorm",
            )


def _refuse_moving_state(module: nn.Module, loss: RowLoss, rows: Rows) -> None:
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    hidden = {name: tensor.detach().clone() for name, tensor in module.named_buffers()}
    with torch.no_grad():
        loss(module, rows)
    after = module.state_dict() | dict(module.named_buffers())
    for name, tensor in (before | hidden).items():
        if not torch.equal(tensor, after[name]):
            raise PrivacyError(
                f"{name} changes in a call, so it carries patients' data past the noise",
                "use a quantizer without moving averages (gradient or fsq), and no running statistics",
            )


def _refuse_mixed_patients(module: nn.Module, loss: RowLoss, rows: Rows, engine: Engine) -> None:
    losses = loss(module, rows).detach()
    num = len(next(iter(rows.values())))
    if losses.shape != (num,):
        raise PrivacyError(
            f"the loss has shape {tuple(losses.shape)} for {num} rows", "return one loss for each row"
        )
    for index in range(num):
        alone_loss = loss(module, {key: rows[key][index : index + 1] for key in rows})[0]
        if not torch.isclose(alone_loss, losses[index], rtol=_TOLERANCE):
            raise PrivacyError(
                "a patient's loss depends on who else is in the batch",
                "return losses that treat rows one by one",
            )
    together = engine(module, loss, rows, [1] * num)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise PrivacyError(
            "no parameter of the network is trained", "unfreeze the trainable set of the study"
        )
    for name in trained:
        if name not in together or len(together[name]) != num:
            raise PrivacyError(f"{name} has no gradient per patient", "use another gradient engine")
    for index in range(num):
        alone = engine(module, loss, {key: rows[key][index : index + 1] for key in rows}, [1])
        size = _norm({name: tensor[0] for name, tensor in alone.items()})
        apart = _norm({name: alone[name][0] - together[name][index] for name in trained})
        if not apart <= _TOLERANCE * size:
            raise PrivacyError(
                "a patient's gradient depends on who else is in the batch",
                "use losses and layers that treat rows one by one",
            )


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum().sqrt())
