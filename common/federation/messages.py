"""What the server asks (`TrainOrder`) and what a site answers (`TrainReport`, `FailureReport`).

Plain data: `packing.py` turns them into packets, `wire.py` those into Flower records, `allow_list.py` decides
what may pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from common.errors import ErrorCode
from common.federation.stage import Stage


@dataclass(frozen=True)
class TrainOrder:
    """One site's work for one round.

    Attributes:
        study_digest: SHA-256 of the study; a site with another study refuses.
        site: Name of the site the order is for.
        stage: Stage to train.
        round_index: Round of the stage, from 1.
        parameters: Global state to start from, by name: all that the stage trains, and nothing else.
        frozen_digest: SHA-256 of what the stage uses and does not train; empty in the codec stage.
        frozen: Those tensors themselves, sent only to a site that does not hold them yet: ``codec.`` and,
            where only additions to a public denoiser are trained, ``denoiser.``.
        run: Identifier of the run.
        attempt: Of the round, from 1: the same attempt again is the same order.
        ledger_head: Last head of the site's privacy ledger that the server saw; empty in a study without
            differential privacy.
    """

    study_digest: str
    site: str
    stage: Stage
    round_index: int
    parameters: Mapping[str, Tensor]
    frozen_digest: str = ""
    frozen: Mapping[str, Tensor] = field(default_factory=dict)
    run: str = ""
    attempt: int = 1
    ledger_head: str = ""


@dataclass(frozen=True)
class LedgerProof:
    """That a site's privacy ledger continues the head that the order named.

    Attributes:
        start: That head.
        bodies: Digests of the ledger's lines since.
        head: The head they lead to.
    """

    start: str
    bodies: tuple[str, ...]
    head: str


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
        seconds: Wall time of the training at the site; 0 under differential privacy.
        metrics: Means over the round, by name; empty under differential privacy.
        ledger: Under differential privacy, that the round was paid for.
    """

    study_digest: str
    site: str
    stage: Stage
    round_index: int
    parameters: Mapping[str, Tensor]
    steps: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    ledger: LedgerProof | None = None


@dataclass(frozen=True)
class FailureReport:
    """A site that could not do its order says which of the known reasons it was, and nothing else."""

    site: str
    code: ErrorCode


Report = TrainReport | FailureReport
