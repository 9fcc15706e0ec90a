"""The denoiser's part of a study."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from common.frozen import FrozenModel

Probability = Annotated[float, Field(ge=0, le=1)]
TimeDistribution = Literal["uniform", "logit_normal"]


class DenoiserConfig(FrozenModel):
    """Size of MONAI's DiffusionModelUNet.

    Attributes:
        channels: Width per level; each level below the first halves the latent.
        attention: Whether a level has self-attention.
        num_res_blocks: Residual blocks per level.
        norm_groups: GroupNorm groups; divides every width.
        head_channels: Channels per attention head.
    """

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32, 64)
    attention: tuple[bool, ...] = (False, False, True)
    num_res_blocks: PositiveInt = 1
    norm_groups: PositiveInt = 8
    head_channels: PositiveInt = 32

    @model_validator(mode="after")
    def _sound(self) -> "DenoiserConfig":
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries for {len(self.channels)} levels: give one each"
            )
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(f"channels {width} is not a multiple of norm_groups {self.norm_groups}")
        # The middle block attends whatever the lowest level does.
        attends = (*self.attention[:-1], True)
        for width, attended in zip(self.channels, attends, strict=True):
            if attended and width % self.head_channels:
                raise ValueError(f"channels {width} is not a multiple of head_channels {self.head_channels}")
        return self


class ConditionConfig(FrozenModel):
    """What the denoiser is told about each example.

    Attributes:
        kind: ``none``; ``site``, the style of the site a volume comes from; ``class``, the label
            that the patient table gives in its ``class`` column (0 to ``num_classes`` - 1).
        num_classes: Number of classes for ``class``; sites are counted by themselves.
        dropout: Share of examples that train the unconditional path (Ho & Salimans 2022).
    """

    kind: Literal["none", "site", "class"] = "none"
    num_classes: PositiveInt | None = None
    dropout: Probability = 0.1

    @model_validator(mode="after")
    def _sound(self) -> "ConditionConfig":
        if (self.kind == "class") != (self.num_classes is not None):
            raise ValueError("num_classes belongs to `kind: class`, and only to it")
        return self


class SamplerConfig(FrozenModel):
    """How synthetic latents are drawn.

    Attributes:
        kind: ``ddpm`` and ``ddim`` go with objectives ``eps`` and ``v``, ``euler`` and ``heun``
            with ``flow``.
        num_steps: Calls of the solver (Heun makes two network calls a step).
        eta: DDIM's noise share; 0 is deterministic, 1 is ancestral.
        guidance_scale: Weight w of classifier-free guidance; 1 is plain conditional sampling.
        snap_to_codebook: Replace each sampled latent vector by its nearest code before decoding.
    """

    kind: Literal["ddpm", "ddim", "euler", "heun"] = "heun"
    num_steps: PositiveInt = 12
    eta: Probability = 0.0
    guidance_scale: NonNegativeFloat = 1.0
    snap_to_codebook: bool = True


class TrainableConfig(FrozenModel):
    """The trained part of a denoiser; see `common.diffusion.adapters`.

    Attributes:
        kind: ``lora``, ``film``, ``norm``, ``bias`` or ``all``.
        rank: Rank of the additions, for ``lora``.
        where: For ``lora`` and ``film``: part of the names of the layers to adapt; all by default.
    """

    kind: Literal["lora", "film", "norm", "bias", "all"] = "lora"
    rank: PositiveInt | None = None
    where: str = ""

    @model_validator(mode="after")
    def _sound(self) -> "TrainableConfig":
        if (self.kind == "lora") != (self.rank is not None):
            raise ValueError("rank belongs to `kind: lora`, and only to it")
        if self.where and self.kind not in {"lora", "film"}:
            raise ValueError("where belongs to `kind: lora` and `kind: film`")
        return self


class DiffusionConfig(FrozenModel):
    """Objective, network, condition and sampler of the second stage.

    Attributes:
        objective: ``eps`` and ``v`` diffuse with the cosine schedule; ``flow`` is rectified flow.
        num_train_steps: Timesteps T of the noise schedule (``eps`` and ``v``).
        time_distribution: Where training times fall (``flow``).
        denoiser: The network.
        condition: What it is told.
        ema_decay: Decay per local step of the averaged denoiser that is released.
        sampler: How it is sampled.
    """

    objective: Literal["eps", "v", "flow"] = "flow"
    num_train_steps: PositiveInt = 1000
    time_distribution: TimeDistribution = "uniform"
    denoiser: DenoiserConfig = DenoiserConfig()
    condition: ConditionConfig = ConditionConfig()
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    sampler: SamplerConfig = SamplerConfig()

    @model_validator(mode="after")
    def _sampler_fits(self) -> "DiffusionConfig":
        flow_sampler = self.sampler.kind in {"euler", "heun"}
        if flow_sampler != (self.objective == "flow"):
            fitting = "euler or heun" if self.objective == "flow" else "ddpm or ddim"
            raise ValueError(
                f"sampler {self.sampler.kind} does not fit objective {self.objective}: use {fitting}"
            )
        return self
