"""The fixed affine map between the codec's latents and the denoiser's.

A denoiser wants latents of unit variance (Rombach et al. 2022, Section G). The map is made once, from
the released codebook or a public constant, and stored in the artefact. It is never measured on
private latents: that would be one more query on them.

>>> scale = LatentScale.from_moments(mean=torch.tensor([1.0]), std=torch.tensor([2.0]))
>>> scale.normalize(torch.full((1, 1, 1, 1, 1), 5.0)).item()
2.0
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ArtifactError
from common.shapes import LatentLike


@dataclass(frozen=True)
class LatentScale:
    """Normalised = (latent - shift) / scale, per channel.

    Attributes:
        shift: What is subtracted, one value per channel.
        scale: What is divided by, one positive value per channel.

    Raises:
        ArtifactError: Lengths differ, a value is not finite, or a scale is not positive.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        sound = (
            len(self.shift) == len(self.scale)
            and all(math.isfinite(value) for value in (*self.shift, *self.scale))
            and all(value > 0 for value in self.scale)
        )
        if not sound:
            raise ArtifactError(
                f"latent scale with shift {self.shift} and scale {self.scale} has no inverse",
                "a codebook whose channel is constant did not train; train the codec longer",
            )

    @classmethod
    def from_moments(cls, mean: Tensor, std: Tensor) -> "LatentScale":
        """Return the map that leaves every channel with mean 0 and variance 1.

        The codec's latents are in the units of the volume, so its detail channels are faint beside the
        mean intensity. That this is better than one scale for all is not shown (docs/decisions/0005).
        """
        return cls(shift=tuple(mean.double().tolist()), scale=tuple(std.double().tolist()))

    @classmethod
    def identity(cls, num_channels: int) -> "LatentScale":
        """Return the map that changes nothing."""
        return cls(shift=(0.0,) * num_channels, scale=(1.0,) * num_channels)

    def normalize(self, latent: LatentLike) -> LatentLike:
        """Return the codec's latents as the denoiser wants them."""
        return (latent - _per_channel(self.shift, latent)) / _per_channel(self.scale, latent)

    def denormalize(self, latent: LatentLike) -> LatentLike:
        """Return the denoiser's latents as the codec's decoder wants them."""
        return latent * _per_channel(self.scale, latent) + _per_channel(self.shift, latent)

    def to_dict(self) -> dict[str, list[float]]:
        """Return the map as plain floats, for an artefact's manifest."""
        return {"shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Sequence[float]]) -> "LatentScale":
        """Return the map that `to_dict` wrote."""
        return cls(shift=tuple(content["shift"]), scale=tuple(content["scale"]))


def _per_channel(values: tuple[float, ...], like: LatentLike) -> Tensor:
    """Return ``values`` along axis 1 of ``like``."""
    column = torch.tensor(values, dtype=like.dtype, device=like.device)
    return column.reshape(-1, *[1] * (like.ndim - 2))
