"""The exponential moving average of the denoiser, whose parameters are released.

With w_k the parameters after update k and d the decay per update, the average is the weighted mean

    a_k = Σ_i d^(k-i) w_i / Σ_i d^(k-i),    i = 1 ... k

which does not contain the initial parameters at all (the bias correction of Kingma & Ba 2015,
Section 3). As a recursion it is an ordinary EMA whose decay rises from 0 to d:

    a_k = b_k a_(k-1) + (1 - b_k) w_k,    b_k = d (1 - d^(k-1)) / (1 - d^k)

>>> [round(warmed_decay(0.9, update_index=k), 3) for k in (1, 2, 3, 100)]
[0.0, 0.474, 0.631, 0.9]
"""

from collections.abc import Mapping

from torch import Tensor


def warmed_decay(decay_per_step: float, update_index: int, steps_per_update: int = 1) -> float:
    """Return b_k, the share of the old average that update k keeps.

    Args:
        decay_per_step: Decay per optimizer step, below 1.
        update_index: k, from 1.
        steps_per_update: Optimizer steps that one update stands for: on the server, a round's local
            steps S, so d is ``decay_per_step`` to the power S.
    """
    decay = decay_per_step**steps_per_update
    return decay * (1 - decay ** (update_index - 1)) / (1 - decay**update_index)


def ema_update(
    average: Mapping[str, Tensor], current: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """Return ``decay`` times the average plus the rest of the current value, name by name.

    The sum is made in float64 and cast once to the average's dtype. Neither argument is changed.
    """
    return {
        name: (decay * old.double() + (1 - decay) * current[name].to(old.device).double()).to(old.dtype)
        for name, old in average.items()
    }
