"""From what a round's reports amount to, to the next global state."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from common.codec.codebook import is_codebook_sum, split_dead_codes_of
from common.diffusion.ema import ema_update, warmed_decay
from common.federation.stage import Stage
from common.study import Study
from server.server_optimizer import ServerOptimizer
from server.state import GlobalState


def next_state(state: GlobalState, mean: Mapping[str, Tensor], study: Study) -> GlobalState:
    """Return the global state after a round.

    Args:
        state: The state the round started from.
        mean: What the reports amount to; see `combined`.
        study: The strategy.
    """
    round_index = state.round_index + 1
    trained, slots = _apply_strategy(state, mean, round_index, study)
    if state.stage is Stage.CODEC:
        codec = split_dead_codes_of(trained)
        return dataclasses.replace(state, round_index=round_index, codec=codec, optimizer=slots)
    diffusion = study.diffusion
    decay = warmed_decay(diffusion.model.ema_decay, round_index, diffusion.training.local_steps)
    average = ema_update(state.denoiser_average, trained, decay)
    return GlobalState(
        Stage.DIFFUSION,
        round_index,
        codec=state.codec,
        denoiser=trained,
        denoiser_average=average,
        denoiser_frozen=state.denoiser_frozen,
        optimizer=slots,
    )


def _apply_strategy(
    state: GlobalState, mean: Mapping[str, Tensor], round_index: int, study: Study
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the new parameters in the old ones' dtypes, and the server optimizer's moments.

    Codebook sums pass by the server's optimizer: a momentum on counts would make them negative.
    """
    sums = {name: tensor for name, tensor in mean.items() if is_codebook_sum(name)}
    parameters = {name: tensor for name, tensor in mean.items() if name not in sums}
    current = {name: state.trained[name] for name in parameters}
    optimizer = ServerOptimizer(study.federation.strategy)
    stepped, slots = optimizer.step(current, parameters, state.optimizer, round_index)
    combined = {**stepped, **sums}
    return {name: combined[name].to(state.trained[name].dtype) for name in state.trained}, slots
