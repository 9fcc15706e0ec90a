"""Entries of a privacy ledger, for tests."""

from datetime import UTC, datetime

from client.private.budget import Budget
from common.privacy.events import SampledGaussian
from common.privacy.ledger_format import (
    OrderKey,
    Reserve,
)

LAX = Budget(epsilon=1000, delta=1e-5)
MOST_ROUNDS = 1000
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def order(round_index=1, run="run", parent="a", study="b") -> OrderKey:
    return OrderKey(study=study * 64, run=run, stage="diffusion", round_index=round_index, parent=parent * 64)


def reserve(key=None, steps=2, noise=4.0, patients="d") -> Reserve:
    return Reserve(
        event=SampledGaussian(sampling_rate=0.1, noise_multiplier=noise, steps=steps),
        clip_norm=1.0,
        order=key or order(),
        code="c" * 64,
        patients=patients * 64,
        time=NOW,
    )
