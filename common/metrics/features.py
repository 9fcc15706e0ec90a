"""What a volume looks like, as a vector, from two extractors that need no download.

Distances between sets of volumes need features. Networks trained on natural or medical images are
downloads, and some collapse (all inputs give nearly the same vector), so two extractors of
different kinds are used, and a finding counts when both agree:

    random_conv   a convolutional network with fixed random weights: three scales, two layers
                  each, mean and deviation of every map. Untrained, and called so.
    descriptor    made by hand: intensity quantiles, Haar wavelet amplitudes (Mallat 1989), radial
                  amplitude spectrum, and a 3x3x3 thumbnail that says where things are.

Both take any channels and shape, treat each example alone, and are deterministic. Their entries have
different units: `Standardizer`, fitted on REAL TRAINING features, brings them to one.

>>> descriptor(torch.zeros(2, 1, 16, 16, 8)).shape
torch.Size([2, 65])
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from common.errors import MetricError
from common.shapes import VolumeBatch

Features = Float[Tensor, "batch feature"]
Extractor = Callable[[VolumeBatch], Features]

_SEED = 20230507  # part of the extractor's definition, like its widths
_WIDTHS = (8, 16, 32)  # maps per scale: few where voxels are many
_NUM_SCALES = len(_WIDTHS)
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_SPECTRUM_BINS = 8
_THUMBNAIL = 3
_SMALLEST_DEVIATION = 0.005  # a quarter per cent of the intensity range, which all features scale with


def random_conv(volumes: VolumeBatch) -> Features:
    """Return the pooled maps of the untrained network; float32 [batch, 112]."""
    generator = torch.Generator().manual_seed(_SEED)
    level = volumes.float()
    pooled = []
    # TF32 would make features depend on the card's generation.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for scale, width in enumerate(_WIDTHS):
            if scale > 0:
                level = _halved(level)
            for _ in range(2):
                level = _random_layer(level, width, generator)
            maps = level.flatten(2)
            pooled += [maps.mean(dim=2), maps.std(dim=2, correction=0)]
    return torch.cat(pooled, dim=1)


def descriptor(volumes: VolumeBatch) -> Features:
    """Return the hand-made vector; float32 [batch, 65 per channel]."""
    volumes = volumes.float()
    parts = [_quantiles(volumes), _haar_amplitudes(volumes), _radial_spectrum(volumes), _thumbnail(volumes)]
    return torch.cat(parts, dim=2).flatten(1)


EXTRACTORS: Mapping[str, Extractor] = MappingProxyType({"random_conv": random_conv, "descriptor": descriptor})


@torch.no_grad()
def extract(extractor: Extractor, volumes: VolumeBatch, batch_size: int = 16) -> Features:
    """Return the features of ``volumes``, ``batch_size`` at a time to bound the memory."""
    return torch.cat([extractor(batch) for batch in torch.split(volumes, batch_size)])


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """The affine map that gives real training features mean 0 and deviation 1; in float64.

    Attributes:
        mean: Mean of each feature.
        scale: Deviation of each feature, never below 0.005: a feature in which real volumes do not
            differ at all must not decide every distance.
    """

    mean: Float[Tensor, " feature"]
    scale: Float[Tensor, " feature"]

    @classmethod
    def fit(cls, real_training: Features) -> "Standardizer":
        """Return the standardizer of these features.

        Raises:
            MetricError: Fewer than two volumes, or features that are not finite.
        """
        if len(real_training) < 2:
            raise MetricError(
                f"{len(real_training)} real training volumes have no deviation", "give at least 2"
            )
        if not bool(real_training.isfinite().all()):
            raise MetricError("features of real training volumes are not finite", "check the volumes")
        features = real_training.double()
        deviation = features.std(dim=0, correction=0)
        return cls(mean=features.mean(dim=0), scale=deviation.clamp_min(_SMALLEST_DEVIATION))

    def __call__(self, features: Features) -> Features:
        """Return the features in real training units."""
        return (features.double() - self.mean) / self.scale


def _random_layer(maps: VolumeBatch, width: int, generator: torch.Generator) -> VolumeBatch:
    """Return a 3x3x3 convolution with He-initialised weights (He et al. 2015, Eq. 10), rectified.

    The weights are drawn on the CPU so that every device gets the same ones. Borders repeat the
    edge voxel: zeros would be mid-grey.
    """
    channels = maps.shape[1]
    deviation = math.sqrt(2 / (channels * 27))
    weight = torch.randn(width, channels, 3, 3, 3, generator=generator) * deviation
    bias = torch.randn(width, generator=generator) * 0.1
    padded = functional.pad(maps, (1,) * 6, mode="replicate")
    return functional.leaky_relu(functional.conv3d(padded, weight.to(maps), bias.to(maps)), 0.2)


def _halved(volumes: VolumeBatch) -> VolumeBatch:
    """Return the mean of 2x2x2 blocks; an odd side repeats its last voxel."""
    return functional.avg_pool3d(_made_even(volumes), 2)


def _made_even(volumes: VolumeBatch) -> VolumeBatch:
    odd = [side % 2 for side in volumes.shape[2:]]
    return functional.pad(volumes, (0, odd[2], 0, odd[1], 0, odd[0]), mode="replicate")


def _quantiles(volumes: VolumeBatch) -> Tensor:
    levels = torch.tensor(_QUANTILES, dtype=volumes.dtype, device=volumes.device)
    ordered = volumes.flatten(2).sort(dim=2).values
    places = (levels * (ordered.shape[2] - 1)).round().long()
    return ordered[:, :, places]


def _haar_amplitudes(volumes: VolumeBatch) -> Tensor:
    """Return the root mean squared detail: 7 directions at 3 scales.

    Amplitudes, not their logarithms: those call the blur of any codec as far from real as a blank
    volume, and two models that both blur could not be told apart.
    """
    amplitudes = []
    level = volumes
    for _ in range(_NUM_SCALES):
        bands = [_made_even(level)]
        for axis in (2, 3, 4):
            bands = [half for band in bands for half in _haar_pair(band, axis)]
        level, *details = bands
        amplitudes += [detail.square().flatten(2).mean(dim=2) for detail in details]
    return torch.stack(amplitudes, dim=2).sqrt()


def _haar_pair(band: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return half the sum and half the difference of neighbours: an approximation stays in [-1, 1]."""
    sides = band.shape
    first, second = band.reshape(*sides[:axis], -1, 2, *sides[axis + 1 :]).unbind(axis + 1)
    return (first + second) / 2, (first - second) / 2


def _radial_spectrum(volumes: VolumeBatch) -> Tensor:
    """Return the root of the power in shells of equal width from 0 to 1/2 cycle per voxel.

    The mean is no texture and is left out; the corners of the cube beyond 1/2 join the last shell.
    """
    sides = volumes.shape[2:]
    power = torch.fft.rfftn(volumes, dim=(2, 3, 4), norm="forward").abs().square()
    frequencies = [torch.fft.fftfreq(s) for s in sides[:2]] + [torch.fft.rfftfreq(sides[2])]
    radius = sum(axis.square() for axis in torch.meshgrid(*frequencies, indexing="ij"))
    shell = (torch.as_tensor(radius).sqrt() * 2 * _SPECTRUM_BINS).long().clamp_max(_SPECTRUM_BINS - 1)
    # rfftn keeps one of each conjugate pair: the planes without a partner count once, others twice.
    share = torch.full(power.shape[2:], 2.0)
    share[..., 0] = 1.0
    if sides[2] % 2 == 0:
        share[..., -1] = 1.0
    share[0, 0, 0] = 0.0
    of_shell = functional.one_hot(shell.flatten(), _SPECTRUM_BINS).float() * share.reshape(-1, 1)
    amplitude: Tensor = (power.flatten(2) @ of_shell.to(power)).sqrt()
    return amplitude


def _thumbnail(volumes: VolumeBatch) -> Tensor:
    return functional.adaptive_avg_pool3d(volumes, _THUMBNAIL).flatten(2)
