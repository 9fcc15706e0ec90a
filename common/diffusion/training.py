"""One stage of denoiser training: an optimizer started anew, one step at a time."""

import torch
from torch import nn

from common.diffusion.config import DiffusionConfig
from common.diffusion.denoiser import check_labels
from common.diffusion.objective import make_objective
from common.diffusion.optimizer import MatrixOptimizer
from common.diffusion.unet import UNetDenoiser
from common.errors import DataError
from common.shapes import Labels, Latent

Proximal = tuple[float, dict[str, torch.Tensor]]
"""FedProx: the weight μ and the global parameters that the local ones are pulled to."""

_LARGEST_GRADIENT_NORM = 1.0


class DiffusionTraining:
    """Trains a denoiser in place.

    A new object starts with fresh moments, so what it does is a function of the denoiser's
    parameters, the latents and the generators it is given. The learning rate comes with each step:
    its schedule belongs to the whole stage, of which this object sees one round.

    Args:
        denoiser: The network, on the device to train on.
        config: Objective and condition dropout.
    """

    def __init__(self, denoiser: UNetDenoiser, config: DiffusionConfig) -> None:
        self.denoiser = denoiser
        self._objective = make_objective(config)
        self._parameters = dict(denoiser.named_parameters())
        self._optimizer = MatrixOptimizer(denoiser)

    def step(
        self,
        latents: Latent,
        labels: Labels | None,
        learning_rate: float,
        generator: torch.Generator,
        proximal: Proximal | None = None,
    ) -> float:
        """Make one optimizer step and return the loss before it, without the proximal term.

        Args:
            latents: Clean latents on the denoiser's device, already normalised.
            labels: Class of each latent, or ``None``.
            learning_rate: The optimizer's learning rate for this step.
            generator: Source of times, noise and condition dropout.
            proximal: Adds μ/2 ‖w - w_global‖² to the loss (Li et al. 2020, Eq. 2).

        Raises:
            DataError: No latents, of which a mean loss cannot be taken.
            ConfigError: A label that the denoiser has no class for.
        """
        if len(latents) == 0:
            raise DataError("a training step was given no latents", "check the site's cache of latents")
        check_labels(labels, self.denoiser.num_classes)
        loss = self._objective.per_example_loss(self.denoiser, latents, labels, generator).mean()
        self.denoiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if proximal is not None:
            self._pull(*proximal)
        nn.utils.clip_grad_norm_(self._parameters.values(), _LARGEST_GRADIENT_NORM)
        self._optimizer.step(learning_rate)
        return float(loss.detach())

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of the denoiser's parameters, by name, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def _pull(self, mu: float, anchor: dict[str, torch.Tensor]) -> None:
        """Add the gradient of the proximal term, μ (w - w_global)."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor[name].to(parameter.device), alpha=mu)
