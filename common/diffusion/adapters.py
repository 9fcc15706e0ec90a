"""Which few parameters of a pretrained denoiser a private run trains.

Noise grows with the square root of the number of trained parameters and a patient's gradient does not
(`fedvox privacy plan` tells how many parameters balance the two), so under differential privacy a denoiser is
pretrained on public volumes, frozen, and given small additions:

    lora   W + B A of rank r beside the weights of attention and residual blocks (Hu et al. 2022)
    film   a scale and a shift per channel after the residual blocks' convolutions (Perez et al. 2018)
    norm   the scales and shifts that GroupNorm has already
    bias   the biases that all layers have already
    all    everything

Additions start as no change: the network's output is the same before the first step. They are modules,
so hooks that watch modules see them.
"""

import torch
from torch import Tensor, nn

from common.diffusion.config import TrainableConfig
from common.diffusion.unet import UNetDenoiser
from common.errors import ConfigError
from common.initialisation import initialised_from


class LowRank(nn.Module):
    """A frozen layer plus a low-rank one: base(x) + up(down(x)), with ``up`` zero at the start.

    Args:
        base: A linear layer or a 3D convolution.
        rank: Channels between ``down`` and ``up``.
    """

    def __init__(self, base: nn.Linear | nn.Conv3d, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down: nn.Module
        self.up: nn.Linear | nn.Conv3d
        match base:
            case nn.Linear():
                self.down = nn.Linear(base.in_features, rank, bias=False)
                self.up = nn.Linear(rank, base.out_features, bias=False)
            case nn.Conv3d():
                # The kernel stays with the first factor, as in the layer that it follows.
                self.down = nn.Conv3d(
                    base.in_channels,
                    rank,
                    _triple(base.kernel_size),
                    _triple(base.stride),
                    _triple(base.padding),
                    bias=False,
                )
                self.up = nn.Conv3d(rank, base.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted layer's output."""
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


class ChannelScaleShift(nn.Module):
    """A layer followed by (1 + scale) y + shift per channel; both are zero at the start.

    The pair is a depthwise 1x1x1 convolution beside the identity: a layer that per-patient gradient
    samplers know.

    Args:
        base: A 3D convolution.
    """

    def __init__(self, base: nn.Conv3d) -> None:
        super().__init__()
        self.base = base
        self.change = nn.Conv3d(base.out_channels, base.out_channels, 1, groups=base.out_channels)
        nn.init.zeros_(self.change.weight)
        if self.change.bias is not None:
            nn.init.zeros_(self.change.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the modulated output."""
        y: Tensor = self.base(x)
        result: Tensor = y + self.change(y)
        return result


def adapt(denoiser: UNetDenoiser, config: TrainableConfig, generator: torch.Generator) -> tuple[str, ...]:
    """Freeze ``denoiser`` but for the trained part, adding it where it is new; in place.

    Args:
        denoiser: Pretrained on public volumes.
        config: What to train.
        generator: Source of the additions' initial values: the same at all sites.

    Returns:
        The names of the trained parameters, in the network's order.

    Raises:
        ConfigError: No layer qualifies.
    """
    denoiser.requires_grad_(False)
    with initialised_from(generator):
        _add(denoiser, config)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or _is_unfrozen(denoiser, name, config))
    trained = tuple(name for name, parameter in denoiser.named_parameters() if parameter.requires_grad)
    if not trained:
        raise ConfigError(
            f"no layer of the denoiser has '{config.where}' in its name", "leave `where` out, or name a block"
        )
    return trained


def _adaptable(denoiser: UNetDenoiser, where: str, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the layers of attention and residual blocks whose names hold ``where``."""
    hidden = {name.removesuffix(".weight") for name in denoiser.hidden_matrices()}
    blocks = ("resnet", "attention")
    return [
        name
        for name, module in denoiser.named_modules()
        if name in hidden and where in name and isinstance(module, kinds) and any(b in name for b in blocks)
    ]


def _add(denoiser: UNetDenoiser, config: TrainableConfig) -> None:
    """Put the additions of ``config`` in place of the layers that they adapt."""
    kinds = {"lora": (nn.Linear, nn.Conv3d), "film": (nn.Conv3d,)}.get(config.kind, ())
    for name in _adaptable(denoiser, config.where, kinds):
        parent, _, child = name.rpartition(".")
        owner = denoiser.get_submodule(parent)
        layer = getattr(owner, child)
        setattr(owner, child, LowRank(layer, config.rank) if config.rank else ChannelScaleShift(layer))


def _is_unfrozen(denoiser: UNetDenoiser, name: str, config: TrainableConfig) -> bool:
    """Return whether a parameter that the pretrained network has already is trained."""
    owner = denoiser.get_submodule(name.rpartition(".")[0])
    match config.kind:
        case "all":
            return True
        case "bias":
            return name.endswith("bias")
        case "norm":
            return isinstance(owner, nn.GroupNorm)
        case _:
            return False


def _triple(sizes: tuple[int, ...] | str) -> tuple[int, int, int]:
    x, y, z = (int(size) for size in sizes)
    return x, y, z
