"""What every volume of a study looks like after preprocessing."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from common.frozen import FrozenModel
from common.volume.labels import LabelClass


class PercentileWindow(FrozenModel):
    """Scale each exam by its own percentiles: MRI, whose units mean nothing.

    One window per exam over all channels, computed before padding.
    """

    kind: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, le=100)] = 0.5
    high: Annotated[float, Field(ge=0, le=100)] = 99.5

    @model_validator(mode="after")
    def _ordered(self) -> "PercentileWindow":
        if self.low >= self.high:
            raise ValueError(f"low percentile {self.low} is not below high {self.high}")
        return self


class FixedWindow(FrozenModel):
    """Scale every exam by the same two intensities: CT in HU."""

    kind: Literal["fixed"] = "fixed"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "FixedWindow":
        if self.low >= self.high:
            raise ValueError(f"low intensity {self.low} is not below high {self.high}")
        return self


class VolumeSpec(FrozenModel):
    """Shape, spacing and intensity that all sites bring their volumes to.

    Attributes:
        shape: Voxels along x, y, z (RAS).
        spacing_mm: Millimetres between voxel centres; ``keep`` leaves an axis as it was acquired
            (sparse slices are positions, not samples of a continuum).
        nominal_spacing_mm: The spacing written into synthetic volumes for axes that say ``keep``;
            manifests mark it as nominal.
        channels: Names of the channels of one exam. With more than one, the files of an exam are
            ``EXAM_0000.nii.gz``, ``EXAM_0001.nii.gz``, ... in this order.
        intensity: How intensities become [-1, 1].
        output_range: The intensities that -1 and 1 map to in synthetic volumes.
        labels: Classes of the label maps that are generated together with the images; without any, label
            maps are no part of the study.
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    spacing_mm: tuple[
        PositiveFloat | Literal["keep"], PositiveFloat | Literal["keep"], PositiveFloat | Literal["keep"]
    ]
    nominal_spacing_mm: PositiveFloat = 1.0
    channels: Annotated[tuple[str, ...], Field(min_length=1)] = ("image",)
    intensity: Annotated[PercentileWindow | FixedWindow, Field(discriminator="kind")] = PercentileWindow()
    output_range: tuple[float, float] = (0.0, 1000.0)
    labels: tuple[LabelClass, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> "VolumeSpec":
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channel names repeat: {', '.join(self.channels)}")
        values = [value for one in self.labels for value in one.values]
        if 0 in values or len(set(values)) != len(values):
            raise ValueError("labels: a value is 0, which is background, or stands in two classes")
        if len({one.name for one in self.labels}) != len(self.labels):
            raise ValueError("labels: two classes have one name")
        if self.output_range[0] >= self.output_range[1]:
            raise ValueError(f"output_range {self.output_range} is not ascending")
        return self

    @property
    def num_channels(self) -> int:
        """Number of channels of one exam's images."""
        return len(self.channels)

    @property
    def num_label_channels(self) -> int:
        """Channels that hold the label map behind those of the images: one per class and background, or 0."""
        return len(self.labels) + 1 if self.labels else 0

    @property
    def num_codec_channels(self) -> int:
        """Channels that the codec takes and gives: images, then label map."""
        return self.num_channels + self.num_label_channels

    @property
    def written_spacing_mm(self) -> tuple[float, float, float]:
        """Spacing of a synthetic volume: the study's, or the nominal one where it says ``keep``."""
        x, y, z = (self.nominal_spacing_mm if s == "keep" else float(s) for s in self.spacing_mm)
        return x, y, z
