"""One stage of codec training: generator and discriminators, one step at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.codec.codec import Codec
from common.codec.config import CodecConfig, DiscriminatorConfig
from common.codec.discriminators import (
    PatchDiscriminator,
    discriminator_loss,
    feature_distance,
    generator_loss,
    make_discriminators,
    take_slices,
)
from common.codec.ema_quantizer import EmaQuantizer
from common.codec.losses import absolute_error, label_error, spectral_error, squared_error
from common.shapes import PerExample, VolumeBatch

Proximal = tuple[float, Mapping[str, Tensor]]
"""FedProx: the weight μ and the global parameters that the local ones are pulled to."""

LARGEST_GRADIENT_NORM = 1.0
BETAS = (0.5, 0.9)  # as in Medical Diffusion's VQ-GAN
AXES = {"x": 0, "y": 1, "z": 2}


class CodecTraining:
    """Trains codec and discriminators from a given state.

    A new object starts with fresh Adam moments, so that a round is a function of the state, the volumes
    and the generator it is given.

    Args:
        config: Architecture and losses.
        num_channels: Channels of a volume.
        state: What `state` or `initial_codec_state` returned.
        device: Where to train.
        num_labels: The last channels that hold the label map.
    """

    def __init__(
        self,
        config: CodecConfig,
        num_channels: int,
        state: Mapping[str, Tensor],
        device: torch.device,
        num_labels: int = 0,
    ) -> None:
        self.config, self._num_labels = config, num_labels
        self.modules = _make_modules(config, num_channels, torch.Generator())
        self.modules.load_state_dict(dict(state))
        self.modules.to(device).train()
        self._generator_optimizer = torch.optim.Adam(self.codec.parameters(), betas=BETAS)
        critics = [p for name, p in self.modules.named_parameters() if not name.startswith("codec.")]
        self._critic_optimizer = torch.optim.Adam(critics, betas=BETAS) if critics else None

    @property
    def codec(self) -> Codec:
        """The codec being trained."""
        codec = self.modules["codec"]
        if not isinstance(codec, Codec):
            raise TypeError("the codec stage's modules hold no codec")
        return codec

    def step(
        self,
        volumes: VolumeBatch,
        step_index: int,
        learning_rate: float,
        generator: torch.Generator,
        proximal: Proximal | None = None,
    ) -> dict[str, float]:
        """Make one step of the codec and, from its start step on, one of the discriminators.

        Args:
            volumes: A batch on the training device.
            step_index: Step of the stage, over all rounds, from 0: generator batches, not optimizer calls.
            learning_rate: Adam's rate for the codec.
            generator: Chooses the slices; on the CPU.
            proximal: Adds μ/2 ‖w - w_global‖² to the codec's loss (Li et al. 2020, Eq. 2).

        Returns:
            Mean losses of the batch by name, ``loss`` the sum that was minimised.
        """
        latent = self.codec.encode(volumes)
        quantized = self.codec.quantize(latent)
        rebuilt = self.codec.decoder(quantized.quantized)
        terms = reconstruction_terms(self.config, rebuilt, volumes, self._num_labels)
        terms["commitment"] = quantized.loss
        adversarial = self.config.discriminator
        started = adversarial is not None and step_index >= adversarial.start_step
        views: list[tuple[PatchDiscriminator, Tensor, Tensor]] = []
        if adversarial is not None and started:
            views = self._views(rebuilt, volumes, step_index, adversarial, generator)
            terms |= _generator_terms(views, adversarial)
        loss = torch.stack(list(terms.values())).sum(dim=0).mean()
        self._minimise(loss, self._generator_optimizer, learning_rate, proximal)
        if isinstance(self.codec.quantizer, EmaQuantizer):
            self.codec.quantizer.update(latent, quantized.indices)
        means = {name: float(term.detach().mean()) for name, term in terms.items()}
        means["loss"] = float(loss.detach())
        if adversarial is not None and self._critic_optimizer is not None and views:
            critic_loss = _critic_loss(views)
            self._minimise(critic_loss, self._critic_optimizer, adversarial.learning_rate, None)
            means["discriminator"] = float(critic_loss.detach())
        return means

    def state(self) -> dict[str, Tensor]:
        """Return copies of everything that is aggregated, by name, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.modules.state_dict().items()}

    def _views(
        self,
        rebuilt: VolumeBatch,
        volumes: VolumeBatch,
        step_index: int,
        config: DiscriminatorConfig,
        generator: torch.Generator,
    ) -> list[tuple[PatchDiscriminator, Tensor, Tensor]]:
        """Return (discriminator, real, rebuilt) for slices and volumes; planes take turns by step."""
        axis = AXES[config.planes[step_index % len(config.planes)]]
        positions = torch.randint(volumes.shape[2 + axis], (len(volumes),), generator=generator)
        slices = [take_slices(image, axis, positions) for image in (volumes, rebuilt)]
        images = {"slice_discriminator": slices, "volume_discriminator": [volumes, rebuilt]}
        views = []
        for name, (real, fake) in images.items():
            module = self.modules[name]
            if isinstance(module, PatchDiscriminator):
                views.append((module, real, fake))
        return views

    def _minimise(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, learning_rate: float, proximal: Proximal | None
    ) -> None:
        self.modules.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if proximal is not None:
            self._pull(*proximal)
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()

    @torch.no_grad()
    def _pull(self, mu: float, anchor: Mapping[str, Tensor]) -> None:
        """Add the gradient of the proximal term, μ (w - w_global)."""
        for name, parameter in self.modules.named_parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor[name].to(parameter.device), alpha=mu)


def reconstruction_terms(
    config: CodecConfig, rebuilt: VolumeBatch, volumes: VolumeBatch, num_labels: int = 0
) -> dict[str, PerExample]:
    """Return the weighted terms of the reconstruction loss of each example, by name.

    The last ``num_labels`` channels are a label map: they have their own term, and no part in the others.
    """
    labels = {}
    if num_labels and config.label_weight:
        error = label_error(rebuilt[:, -num_labels:], volumes[:, -num_labels:])
        labels["labels"] = config.label_weight * error
    images = volumes.shape[1] - num_labels
    rebuilt, volumes = rebuilt[:, :images], volumes[:, :images]
    weighted = {
        "l1": (config.l1_weight, absolute_error),
        "mse": (config.mse_weight, squared_error),
        "perceptual": (config.perceptual_weight, spectral_error),
    }
    terms = {name: weight * term(rebuilt, volumes) for name, (weight, term) in weighted.items() if weight}
    return terms | labels


def codec_loss(codec: Codec, config: CodecConfig, volumes: VolumeBatch, num_labels: int = 0) -> PerExample:
    """Return the loss of each example without discriminators; example i's depends on example i alone."""
    quantized = codec.quantize(codec.encode(volumes))
    terms = reconstruction_terms(config, codec.decoder(quantized.quantized), volumes, num_labels)
    return torch.stack([*terms.values(), quantized.loss]).sum(dim=0)


def initial_codec_state(
    config: CodecConfig, num_channels: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return codec, codebook state and discriminators before the first step: what round 1 starts from."""
    return _make_modules(config, num_channels, generator).state_dict()


def _make_modules(config: CodecConfig, num_channels: int, generator: torch.Generator) -> nn.ModuleDict:
    modules: dict[str, nn.Module] = {"codec": Codec(config, num_channels, generator)}
    if config.discriminator is not None:
        slices, volumes = make_discriminators(config.discriminator, num_channels, generator)
        modules |= {"slice_discriminator": slices, "volume_discriminator": volumes}
    return nn.ModuleDict(modules)


def _generator_terms(
    views: list[tuple[PatchDiscriminator, Tensor, Tensor]], config: DiscriminatorConfig
) -> dict[str, Tensor]:
    adversarial, matching = [], []
    for discriminator, real, fake in views:
        with torch.no_grad():
            real_features = discriminator(real)
        fake_features = discriminator(fake)
        adversarial.append(generator_loss(fake_features[-1]))
        matching.append(feature_distance(real_features, fake_features))
    return {
        "adversarial": config.adversarial_weight * torch.stack(adversarial).sum(dim=0),
        "feature_matching": config.feature_matching_weight * torch.stack(matching).sum(dim=0),
    }


def _critic_loss(views: list[tuple[PatchDiscriminator, Tensor, Tensor]]) -> Tensor:
    losses = [discriminator_loss(critic(real)[-1], critic(fake.detach())[-1]) for critic, real, fake in views]
    return torch.stack(losses).sum(dim=0).mean()
