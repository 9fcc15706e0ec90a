"""The server's step from the old global parameters towards the sites' mean, by Flower's strategies.

FedAvg and FedProx take the mean as it is. FedAvgM and FedAdam treat (mean - old) as a negative
gradient; their arithmetic is Flower's own, fed with one reply that holds our float64 mean, because
the sum over sites must be ours (site-name order, float64) and the optimizer need not be.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM
from torch import Tensor

from common.errors import FederationError
from common.federation.config import FedAdamConfig, FedAvgMConfig, StrategyConfig

FIRST_MOMENT, SECOND_MOMENT = "m.", "v."


@dataclass(frozen=True)
class _MeanReply:
    """The shape of a Flower reply, holding the mean of all sites."""

    content: RecordDict

    def has_error(self) -> bool:
        """Return False: a mean exists only where reports were valid."""
        return False


class ServerOptimizer:
    """One server step, pure: moments come in and go out by name.

    Args:
        config: The strategy of the study.
    """

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    def step(
        self,
        current: Mapping[str, Tensor],
        mean: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        round_index: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new parameters (float64) and the new moments.

        Args:
            current: Global parameters the round started from.
            mean: Weighted mean of the sites' parameters, float64.
            moments: What the last call of the same stage returned; empty at first.
            round_index: Round of the stage, from 1.
        """
        match self.config:
            case FedAvgMConfig():
                return _momentum_step(self.config, current, mean, moments, round_index)
            case FedAdamConfig():
                return _adam_step(self.config, current, mean, moments, round_index)
            case _:
                return dict(mean), {}


def _momentum_step(
    config: FedAvgMConfig,
    current: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    round_index: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = list(mean)
    strategy = FedAvgM(server_learning_rate=config.learning_rate, server_momentum=config.momentum)
    strategy.current_arrays = _to_record({name: current[name] for name in names})
    if moments:
        strategy.momentum_vector = [_to_array(moments[FIRST_MOMENT + name]) for name in names]
    stepped, _ = strategy.aggregate_train(round_index, [_reply(mean)])
    vector = strategy.momentum_vector or []
    return _from_record(stepped), {
        FIRST_MOMENT + name: torch.from_numpy(value) for name, value in zip(names, vector, strict=False)
    }


def _adam_step(
    config: FedAdamConfig,
    current: Mapping[str, Tensor],
    mean: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    round_index: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    strategy = FedAdam(eta=config.learning_rate, beta_1=config.beta_1, beta_2=config.beta_2, tau=config.tau)
    strategy.current_arrays = {name: _to_array(current[name]) for name in mean}
    if moments:
        strategy.m_t = {name: _to_array(moments[FIRST_MOMENT + name]) for name in mean}
        strategy.v_t = {name: _to_array(moments[SECOND_MOMENT + name]) for name in mean}
    stepped, _ = strategy.aggregate_train(round_index, [_reply(mean)])
    first, second = strategy.m_t or {}, strategy.v_t or {}
    return _from_record(stepped), {
        **{FIRST_MOMENT + name: torch.from_numpy(value) for name, value in first.items()},
        **{SECOND_MOMENT + name: torch.from_numpy(value) for name, value in second.items()},
    }


def _reply(mean: Mapping[str, Tensor]) -> _MeanReply:
    return _MeanReply(
        RecordDict({"arrays": _to_record(mean), "metrics": MetricRecord({"num-examples": 1.0})})
    )


def _to_array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.to(torch.float64).numpy())


def _to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    return ArrayRecord({name: Array(_to_array(tensor)) for name, tensor in tensors.items()})


def _from_record(record: ArrayRecord | None) -> dict[str, Tensor]:
    if record is None:
        raise FederationError("the server's optimizer returned nothing", "check federation.strategy")
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items()}
