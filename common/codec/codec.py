"""The codec: encoder, quantizer, decoder (Esser et al. 2021, in 3D).

`encode`, `quantize` and `decode` are pure, in train mode too: the same input gives the same bits twice.
The diffusion stage uses UNQUANTISED latents; `decode` may snap a sampled latent to the codebook.
"""

import torch
from torch import Tensor, nn

from common.codec.config import (
    CodecConfig,
    EmaQuantizerConfig,
    FsqQuantizerConfig,
    GradientQuantizerConfig,
    NoQuantizerConfig,
)
from common.codec.ema_quantizer import EmaQuantizer
from common.codec.fsq_quantizer import FsqQuantizer
from common.codec.gradient_quantizer import GradientQuantizer
from common.codec.networks import Decoder, Encoder
from common.codec.quantizer import Quantized, Quantizer
from common.codec.transform import BlockTransform, lowest_frequencies
from common.initialisation import initialised_from
from common.shapes import Latent, VolumeBatch


class ContinuousLatent(nn.Module):
    """No quantizer: the latent as it is, for comparison."""

    def __init__(self, deviations: Tensor) -> None:
        super().__init__()
        self.deviations = deviations

    def forward(self, latent: Latent) -> Quantized:
        """Return the latent, without codes and without loss."""
        none = torch.zeros(len(latent), *latent.shape[2:], dtype=torch.long, device=latent.device)
        return Quantized(latent, none, latent.new_zeros(len(latent)))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return 0 and the deviations that the encoder starts from: public constants."""
        return torch.zeros_like(self.deviations, dtype=torch.float64), self.deviations.double()


class Codec(nn.Module):
    """Volume to latent to volume.

    Args:
        config: Sizes and quantizer.
        num_channels: Channels of a volume.
        generator: Source of every initial value, on the CPU.
    """

    quantizer: Quantizer

    def __init__(self, config: CodecConfig, num_channels: int, generator: torch.Generator) -> None:
        super().__init__()
        with initialised_from(generator):
            self.encoder = Encoder(config, num_channels)
            self.decoder = Decoder(config, num_channels)
        transform = lowest_frequencies(num_channels, config.downsampling, config.code_dim)
        self.quantizer = _make_quantizer(config, transform, generator)

    def encode(self, volume: VolumeBatch) -> Latent:
        """Return the latent before quantization."""
        latent: Tensor = self.encoder(volume)
        return latent

    def quantize(self, latent: Latent) -> Quantized:
        """Return the nearest codes."""
        return self.quantizer(latent)

    def decode(self, latent: Latent, snap: bool) -> VolumeBatch:
        """Return the volume of a latent; with ``snap``, of the nearest codes of it."""
        volume: Tensor = self.decoder(self.quantize(latent).quantized if snap else latent)
        return volume

    def reconstruct(self, volume: VolumeBatch) -> VolumeBatch:
        """Return what encoder, quantizer and decoder leave of ``volume``."""
        return self.decode(self.encode(volume), snap=True)

    def codebook_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per latent channel, from the codebook or public constants alone."""
        return self.quantizer.moments()


def _make_quantizer(config: CodecConfig, transform: BlockTransform, generator: torch.Generator) -> Quantizer:
    match config.quantizer:
        case EmaQuantizerConfig() as ema:
            return EmaQuantizer(ema, config.commitment_weight, transform.deviations, generator)
        case GradientQuantizerConfig() as gradient:
            return GradientQuantizer(gradient, config.commitment_weight, transform.deviations, generator)
        case FsqQuantizerConfig() as fsq:
            return FsqQuantizer(fsq, config.commitment_weight, transform.deviations)
        case NoQuantizerConfig():
            return ContinuousLatent(transform.deviations)
