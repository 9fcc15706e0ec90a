"""Muon for the weight matrices between a denoiser's hidden layers, Adam for everything else.

Muon (Jordan et al. 2024; `torch.optim.Muon`) replaces the momentum of a weight matrix by the nearest
orthogonal one, so that all directions of a layer learn alike. It keeps no second moment that every
round would have to gather anew, which is what optimizers that restart with each round suffer from.
Its rate is scaled to the size of Adam's updates (Liu et al. 2025, "Muon is scalable for LLM training",
Section 2.2), so one learning rate serves both. Why, and what it gains: docs/decisions/0006.
"""

import torch
from torch import nn

from common.diffusion.unet import UNetDenoiser

_MOMENTUM = 0.9  # a memory of ten steps: rounds have some tens of them
_ADAM_BETAS = (0.9, 0.99)


class MatrixOptimizer:
    """One step for all parameters of a denoiser, in place.

    Args:
        denoiser: The network, already on the device to train on: Muon works on views of its weights.
    """

    def __init__(self, denoiser: UNetDenoiser) -> None:
        names = denoiser.hidden_matrices()
        self._weights = [p for name, p in denoiser.named_parameters() if name in names]
        # PyTorch's Muon takes two axes; a convolution is the matrix of outputs against all else.
        self._matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in self._weights]
        self._muon = torch.optim.Muon(
            self._matrices, weight_decay=0, momentum=_MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        rest = [p for name, p in denoiser.named_parameters() if name not in names]
        self._adam = torch.optim.Adam(rest, betas=_ADAM_BETAS)

    def step(self, learning_rate: float) -> None:
        """Change the parameters by one step along their gradients; one without gradient stays."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for optimizer in (self._muon, self._adam):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()  # type: ignore[no-untyped-call]
