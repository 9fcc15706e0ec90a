"""What the server asks (`TrainOrder`) and what a site answers (`TrainReport`, `FailureReport`).

Plain data: `wire.py` turns them into Flower records, `allow_list.py` decides what may pass.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from common.errors import ErrorCode


class Stage(enum.Enum):
    """The two stages of a study, in the order they run."""

    CODEC = "codec"
    DIFFUSION = "diffusion"


@dataclass(frozen=True)
class TrainOrder:
    """One site's work for one round.

    Attributes:
        study_digest: SHA-256 of the study; a site with another study refuses.
        site: Name of the site the order is for.
        stage: Stage to train.
        round_index: Round of the stage, from 1.
        parameters: Global state to start from, by name.
        codec_digest: SHA-256 of the frozen codec the latents are made with; empty in the codec stage.
        codec: The frozen codec itself, sent only to a site that does not hold it yet.
    """

    study_digest: str
    site: str
    stage: Stage
    round_index: int
    parameters: Mapping[str, Tensor]
    codec_digest: str = ""
    codec: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainReport:
    """A site's result of one round.

    Attributes:
        study_digest: SHA-256 of the study it was trained under.
        site: Name of the site.
        stage: Stage that was trained.
        round_index: Round of the stage.
        parameters: The trained state, with the order's names, shapes and dtypes.
        steps: Local steps made.
        seconds: Wall time of the training at the site.
        metrics: Means over the round, by name; empty under differential privacy.
    """

    study_digest: str
    site: str
    stage: Stage
    round_index: int
    parameters: Mapping[str, Tensor]
    steps: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FailureReport:
    """A site that could not do its order says which of the known reasons it was, and nothing else."""

    site: str
    code: ErrorCode


Report = TrainReport | FailureReport
