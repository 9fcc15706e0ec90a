"""The codec's part of a study."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from common.frozen import FrozenModel

NORM_GROUPS = 8  # of every GroupNorm of the codec, or its channels where they are fewer
Factor = Literal[1, 2, 4, 8, 16]
Factors = tuple[Factor, Factor, Factor]


class EmaQuantizerConfig(FrozenModel):
    """Codebook kept as an exponential moving average of encoder outputs (the paper's)."""

    kind: Literal["ema"] = "ema"
    num_codes: PositiveInt = 512
    code_dim: PositiveInt = 4
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.95


class GradientQuantizerConfig(FrozenModel):
    """Codebook that is an ordinary parameter: exact under DP-SGD."""

    kind: Literal["gradient"] = "gradient"
    num_codes: PositiveInt = 512
    code_dim: PositiveInt = 4


class FsqQuantizerConfig(FrozenModel):
    """Finite scalar quantization (Mentzer et al. 2023): nothing learned, nothing to leak."""

    kind: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 8, 8)

    @property
    def code_dim(self) -> int:
        """Channels of the latent: one per level count."""
        return len(self.levels)


class NoQuantizerConfig(FrozenModel):
    """Leaves the latent continuous: what the other three are measured against."""

    kind: Literal["none"] = "none"
    code_dim: PositiveInt = 4


QuantizerConfig = Annotated[
    EmaQuantizerConfig | GradientQuantizerConfig | FsqQuantizerConfig | NoQuantizerConfig,
    Field(discriminator="kind"),
]


class DiscriminatorConfig(FrozenModel):
    """The two patch discriminators and the weights of their terms.

    Attributes:
        start_step: Generator batches before the adversarial terms begin.
        channels: Width of the first layer.
        num_layers: Strided layers of each discriminator.
        volume_strides: Stride per axis of the 3D discriminator (1 where slices are few).
        planes: Slice planes that the 2D discriminator sees, by the axis they are normal to.
        adversarial_weight: Weight of the generator's hinge term.
        feature_matching_weight: Weight of the L1 distance between discriminator features.
        learning_rate: Adam learning rate of both discriminators.
    """

    start_step: NonNegativeInt = 100
    channels: PositiveInt = 16
    num_layers: PositiveInt = 2
    volume_strides: tuple[PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2)
    planes: Annotated[tuple[Literal["x", "y", "z"], ...], Field(min_length=1)] = ("x", "y", "z")
    adversarial_weight: NonNegativeFloat = 0.1
    feature_matching_weight: NonNegativeFloat = 1.0
    learning_rate: PositiveFloat = 1e-3


class CodecConfig(FrozenModel):
    """Architecture and losses of the VQ-GAN.

    Attributes:
        downsampling: Factor per axis, each a power of two.
        channels: Width at the latent's resolution.
        num_res_blocks: Residual blocks on each side at the latent's resolution.
        quantizer: One of the three quantizers, or ``none``.
        l1_weight: Weight of the absolute error.
        mse_weight: Weight of the squared error.
        label_weight: Weight of the cross-entropy of label channels, in studies that have some.
        commitment_weight: β of van den Oord et al. 2017, Eq. 3.
        perceptual_weight: Weight of the weight-free spectral perceptual term; 0 turns it off.
        discriminator: ``null`` turns the adversarial part off.
    """

    downsampling: Factors = (2, 2, 2)
    channels: PositiveInt = 32
    num_res_blocks: NonNegativeInt = 2
    quantizer: QuantizerConfig = EmaQuantizerConfig()
    l1_weight: NonNegativeFloat = 1.0
    mse_weight: NonNegativeFloat = 1.0
    label_weight: NonNegativeFloat = 0.5
    commitment_weight: NonNegativeFloat = 0.25
    perceptual_weight: NonNegativeFloat = 0.0
    discriminator: DiscriminatorConfig | None = None

    @model_validator(mode="after")
    def _groups_divide(self) -> "CodecConfig":
        if self.num_res_blocks and self.channels > NORM_GROUPS and self.channels % NORM_GROUPS:
            raise ValueError(
                f"codec channels {self.channels} are not a multiple of {NORM_GROUPS}, the groups of a norm"
            )
        return self

    @property
    def code_dim(self) -> int:
        """Channels of the latent."""
        return self.quantizer.code_dim
