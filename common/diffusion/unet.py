"""MONAI's DiffusionModelUNet behind the denoiser contract."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.diffusion.config import DenoiserConfig
from common.diffusion.denoiser import NULL_LABEL
from common.errors import ConfigError
from common.initialisation import initialised_from
from common.shapes import Labels, Latent, PerExample

_TIME_SCALE = 1000.0  # MONAI's sinusoidal embedding is made for timesteps of 0 to 1000


class ConvolveThenUpsample(nn.Module):
    """MONAI's upsampling with its convolution before the interpolation instead of after it.

    An eighth of the convolution's work: a training step at 16x16x16 took 1.16 s instead of 1.38 s on one
    CPU core. What a position should differ in from its copies comes from the skip connections that
    follow; whether samples are as good as with MONAI's order was not compared.

    Args:
        convolution: MONAI's, of kernel 3.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return ``x`` at twice the resolution; the time embedding is not used, as in MONAI's."""
        return functional.interpolate(self.convolution(x), scale_factor=2.0, mode="nearest")


class UNetDenoiser(nn.Module):
    """A 3D U-Net with a class embedding whose last row is the null class.

    Its output convolution starts at zero, so a fresh network predicts zero and the first gradient
    reaches only that layer. It has no dropout and no buffers: a call is pure, in train mode too.

    On the CPU a batch of one takes PyTorch's slow path for 3D convolutions, four to ten times slower
    per latent than a batch of two.

    Args:
        config: Sizes.
        latent_channels: Channels of the latent.
        num_classes: Classes of the condition; 0 makes an unconditional network.
        generator: Source of the initial parameters, which are a pure function of it.
    """

    def __init__(
        self, config: DenoiserConfig, latent_channels: int, num_classes: int, generator: torch.Generator
    ) -> None:
        from monai.networks.nets import DiffusionModelUNet  # a second that most processes never need

        super().__init__()
        self.num_classes = num_classes
        with initialised_from(generator):
            self.unet = DiffusionModelUNet(
                spatial_dims=3,
                in_channels=latent_channels,
                out_channels=latent_channels,
                channels=config.channels,
                attention_levels=config.attention,
                num_res_blocks=config.num_res_blocks,
                norm_num_groups=config.norm_groups,
                num_head_channels=config.head_channels,
                num_class_embeds=num_classes + 1 if num_classes else None,
            )

        for block in self.unet.up_blocks:
            if block.upsampler is not None:
                block.upsampler = ConvolveThenUpsample(block.upsampler.postconv)

    def forward(self, z_t: Latent, time: PerExample, labels: Labels | None) -> Latent:
        """Return the prediction; see `Denoiser`. An empty batch never reaches the network.

        Raises:
            ConfigError: Labels for a network that was built without classes.
        """
        classes = self._classes(labels, len(z_t), z_t.device)
        if len(z_t) == 0:  # MONAI's attention cannot reshape it
            return torch.zeros_like(z_t)
        output: Tensor = self.unet(z_t, time * _TIME_SCALE, class_labels=classes)
        return output

    def hidden_matrices(self) -> frozenset[str]:
        """Return the names of the weights that lead from hidden features to hidden features.

        The input and output convolutions meet the latent's few channels, and rows of an embedding are
        looked up, not multiplied: they are no matrices in this sense.
        """
        outer = (self.unet.conv_in, self.unet.out)
        excluded = {id(module) for part in outer for module in part.modules()}
        return frozenset(
            f"{name}.weight"
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear | nn.Conv3d) and id(module) not in excluded
        )

    def _classes(self, labels: Labels | None, num: int, device: torch.device) -> Labels | None:
        """Return the embedding row of each example."""
        if self.num_classes == 0:
            if labels is not None:
                raise ConfigError(
                    "labels were given to a denoiser without classes",
                    "set diffusion.model.condition in the study, or give no labels",
                )
            return None
        if labels is None:
            return torch.full((num,), self.num_classes, device=device)
        return labels.masked_fill(labels == NULL_LABEL, self.num_classes)


def initial_denoiser_state(
    config: DenoiserConfig, latent_channels: int, num_classes: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the parameters of a fresh denoiser, on the CPU: what round 1 starts from."""
    return UNetDenoiser(config, latent_channels, num_classes, generator).state_dict()


def load_denoiser(
    config: DenoiserConfig, latent_channels: int, num_classes: int, state: dict[str, Tensor]
) -> UNetDenoiser:
    """Return a denoiser with the parameters ``state``, on the CPU."""
    denoiser = UNetDenoiser(config, latent_channels, num_classes, torch.Generator())
    denoiser.load_state_dict(state)
    return denoiser
