"""The networks that segment: plain MONAI networks that also show their deepest features.

    network = SegmentationNetwork.fresh(config, in_channels=1, out_channels=3, generator=generator)
    output, features = network(volumes)          # [b, out, x, y, z], [b, num_features]

Volumes of any size are padded to what the network's levels divide by, and the output is cut back.
`backbone` is the MONAI network itself: a checkpoint holds its weights under its own names.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from monai.networks.nets import SegResNet, SwinUNETR
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.frozen import FrozenModel
from common.initialisation import initialised_from
from common.shapes import VolumeBatch
from common.volume.intensity import BACKGROUND

Features = Float[Tensor, "batch feature"]


class NetworkConfig(FrozenModel):
    """Which network.

    Attributes:
        kind: ``segresnet`` (Myronenko 2018) or ``swin_unetr`` (Hatamizadeh et al. 2022).
        width: Filters of the first level; for Swin UNETR a multiple of 12.
    """

    kind: Literal["segresnet", "swin_unetr"] = "segresnet"
    width: int = 8


class SegmentationNetwork(nn.Module):
    """A MONAI network with its deepest features.

    Args:
        backbone: The network.
        deepest: The name of its module whose output has the lowest resolution.
        head: The name of its output layer, the only one that depends on what comes out.
        multiple: What it divides every axis by.
    """

    def __init__(self, backbone: nn.Module, deepest: str, head: str, multiple: int) -> None:
        super().__init__()
        self.backbone = backbone
        self._head, self._multiple = head, multiple
        self._kept: list[Tensor] = []
        backbone.get_submodule(deepest).register_forward_hook(lambda _, __, output: self._kept.append(output))

    @classmethod
    def fresh(
        cls, config: NetworkConfig, in_channels: int, out_channels: int, generator: torch.Generator
    ) -> "SegmentationNetwork":
        """Return a network whose parameters are a function of the generator.

        Raises:
            ConfigError: A width that the network cannot have.
        """
        kind = KINDS[config.kind]
        with initialised_from(generator):
            try:
                backbone = kind.network(**monai_arguments(config, in_channels, out_channels))
            except ValueError as error:
                raise ConfigError(f"{config.kind} of width {config.width}: {error}", _WIDTHS) from None
        # A third faster on a CPU, and what tensor cores want.
        backbone.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return cls(backbone, kind.deepest, kind.head, kind.multiple)

    def start_from(self, pretrained: Mapping[str, Tensor]) -> None:
        """Take weights by the backbone's names, but for those of the output layer.

        Raises:
            DataError: They are another network's.
        """
        own = self.backbone.state_dict()
        wanted = {name for name in own if not name.startswith(f"{self._head}.")}
        for name in sorted(wanted):
            if name not in pretrained or pretrained[name].shape != own[name].shape:
                raise DataError(
                    f"the pretrained weights have no {name} of that shape", "pretrain this network"
                )
        self.backbone.load_state_dict(own | {name: pretrained[name] for name in wanted})

    def forward(self, volumes: VolumeBatch) -> tuple[VolumeBatch, Features]:
        """Return the output on the volumes' own voxels, and the deepest features, averaged over space."""
        shape = volumes.shape[-3:]
        missing = [-size % self._multiple for size in shape]
        sides = [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)]
        self._kept.clear()
        padded = nn.functional.pad(volumes, sides, value=BACKGROUND)
        output = self.backbone(padded.contiguous(memory_format=torch.channels_last_3d))
        (deepest,) = self._kept
        self._kept.clear()
        box = tuple(slice(gap // 2, gap // 2 + size) for gap, size in zip(missing, shape, strict=True))
        return output[(..., *box)], deepest.flatten(2).mean(dim=2)


_WIDTHS = "take a multiple of 8 for segresnet, of 12 for swin_unetr"


class NetworkKind(NamedTuple):
    """One of MONAI's networks.

    Attributes:
        network: Its class.
        width: Its argument for the filters of the first level.
        fixed: Its other arguments.
        deepest: See `SegmentationNetwork`.
        head: See `SegmentationNetwork`.
        multiple: See `SegmentationNetwork`.
    """

    network: type[nn.Module]
    width: str
    fixed: Mapping[str, Any]
    deepest: str
    head: str
    multiple: int


KINDS: Mapping[str, NetworkKind] = {
    "segresnet": NetworkKind(
        SegResNet,
        "init_filters",
        # Three levels: with two labelled patients better than four, and than MONAI's U-Nets (decision 16).
        {"spatial_dims": 3, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)},
        deepest="down_layers.2",
        head="conv_final.2",
        multiple=4,
    ),
    "swin_unetr": NetworkKind(
        SwinUNETR,
        "feature_size",
        {
            "window_size": 4,  # the default of 7 pads small volumes to mostly nothing
            "norm_name": ("group", {"num_groups": 4}),  # instance norm has nothing to norm at 1 x 1 x 1
        },
        deepest="encoder10",
        head="out",
        multiple=32,
    ),
}


def monai_arguments(config: NetworkConfig, in_channels: int, out_channels: int) -> dict[str, Any]:
    """Return the arguments of the MONAI network's constructor."""
    kind = KINDS[config.kind]
    own = {"in_channels": in_channels, "out_channels": out_channels, kind.width: config.width}
    return {**kind.fixed, **own}
