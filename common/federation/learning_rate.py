"""The learning rate as a function of the public step index alone."""

import math

from common.federation.config import TrainingConfig

FINAL_SHARE = 0.01  # of the peak, at the last step


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the rate of step ``step`` (from 0) of the stage: linear rise, then half a cosine.

    >>> schedule = TrainingConfig(rounds=10, local_steps=10, learning_rate=1.0, warmup_steps=10)
    >>> [round(learning_rate_at(step, schedule), 3) for step in (0, 9, 10, 99)]
    [0.1, 1.0, 1.0, 0.01]
    """
    warmup = min(config.warmup_steps, config.total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)
