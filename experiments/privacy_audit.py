"""A one-run audit of the private step (Steinke, Nasr & Jagielski 2023): does the code keep its promise?

Canaries are made-up patients whose gradients are known: orthonormal directions of norm C that enter the
per-patient engine like any patient's, before clipping. A fair coin says which of them take part in the
run. Afterwards every canary is scored by all that was released; those with the highest scores are
guessed to have taken part, those with the lowest not, the rest is abstained from, in numbers fixed
beforehand. A mechanism with (epsilon, delta) allows only so many right guesses; more of them prove that
the true epsilon is larger.

It catches gross faults: noise or clipping left out, noise far too small. An audit of 200 canaries
cannot confirm epsilon 8, nor see a scale that is off by half: the tests of the noise itself do that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.private.gradient_engines import loop_gradients
from client.private.private_step import PrivateStep
from client.private.secret_stream import RoundSecret, SecretStream
from common.privacy.accountant import epsilon
from common.privacy.patient_gradients import GradientEngine, Rows
from common.privacy.plan import PrivacyPlan

NUM_CANARIES = 200
NUM_GUESSES = 60  # thirty highest, thirty lowest
DIMENSION = 2048
CONFIDENCE = 0.95


@dataclass(frozen=True)
class AuditResult:
    """What the guesses prove.

    Attributes:
        claimed_epsilon: What the accountants say of the plan.
        delta: At this delta.
        num_guesses: Guesses made.
        num_right: Right ones.
        epsilon_lower_bound: The true epsilon is above this with 95 % confidence.
    """

    claimed_epsilon: float
    delta: float
    num_guesses: int
    num_right: int
    epsilon_lower_bound: float

    @property
    def passed(self) -> bool:
        """Whether nothing contradicts the claim."""
        return self.epsilon_lower_bound <= self.claimed_epsilon


def audit(
    plan: PrivacyPlan,
    delta: float,
    seed: int,
    engine: GradientEngine = loop_gradients,
    claimed: PrivacyPlan | None = None,
) -> AuditResult:
    """Run the real private step on canaries and guess who took part.

    Args:
        plan: What is run.
        delta: Delta of the claim.
        seed: Of the coins that decide who takes part; the private step keeps its own secret randomness.
        engine: Gradient engine under audit.
        claimed: What is claimed, if not ``plan``: for showing that the audit would notice.
    """
    coins = torch.rand(NUM_CANARIES, generator=torch.Generator().manual_seed(seed)) < 0.5
    directions = _orthonormal(NUM_CANARIES, DIMENSION, seed) * plan.clip_norm
    scores = _released_scores(plan, directions, coins, engine)
    order = scores.argsort(descending=True)
    half = NUM_GUESSES // 2
    right = int(coins[order[:half]].sum()) + int((~coins[order[-half:]]).sum())
    promised = claimed or plan
    return AuditResult(
        claimed_epsilon=epsilon([promised.event], delta),
        delta=delta,
        num_guesses=NUM_GUESSES,
        num_right=right,
        epsilon_lower_bound=epsilon_lower_bound(NUM_CANARIES, NUM_GUESSES, right, delta),
    )


def _released_scores(plan: PrivacyPlan, directions: Tensor, coins: Tensor, engine: GradientEngine) -> Tensor:
    """Return the sum over all steps of each canary's share in what was released."""
    present = [str(index) for index in range(len(directions)) if coins[index]]

    def rows_of(patient: str, stream: SecretStream) -> Rows:  # noqa: ARG001
        return {"direction": directions[int(patient)][None]}

    module = nn.Linear(directions.shape[1], 1, bias=False)
    step = PrivateStep(plan, "audit", _share, rows_of, engine)
    secret = RoundSecret.drawn()
    released = torch.zeros(directions.shape[1], dtype=torch.float64)
    for index in range(plan.steps):
        released += step.gradient(module, present, secret, index)["weight"].flatten().double()
    return directions.double() @ released


def _share(module: nn.Module, rows: Rows) -> Tensor:
    """A loss whose gradient is the row's direction whatever the weights are."""
    share: Tensor = module(rows["direction"]).squeeze(1)
    return share


def _orthonormal(num: int, dimension: int, seed: int) -> Tensor:
    random = torch.randn(
        dimension, num, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    basis: Tensor = torch.linalg.qr(random)[0].T
    return basis.float()


def epsilon_lower_bound(num_canaries: int, num_guesses: int, num_right: int, delta: float) -> float:
    """Return the largest epsilon that so many right guesses contradict with 95 % confidence; 0 if none.

    Args:
        num_canaries: Canaries, each in or out by a fair coin.
        num_guesses: Guesses; the rest was abstained from.
        num_right: Right guesses.
        delta: Delta.
    """
    if _p_value(num_canaries, num_guesses, num_right, 0.0, delta) > 1 - CONFIDENCE:
        return 0.0
    low, high = 0.0, 20.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        contradicted = _p_value(num_canaries, num_guesses, num_right, middle, delta) <= 1 - CONFIDENCE
        low, high = (middle, high) if contradicted else (low, middle)
    return low


def _p_value(num_canaries: int, num_guesses: int, num_right: int, eps: float, delta: float) -> float:
    """Return a bound on the probability of at least so many right guesses under (eps, delta)-DP.

    Steinke et al. 2023, Theorem 5.2: a binomial of success e^eps / (1 + e^eps), plus what delta adds,
    2 m delta times the largest mean of the probabilities just below.
    """
    success = 1 / (1 + math.exp(-eps))
    from scipy.stats import binom  # half a second that most commands never need

    tail = float(binom.sf(num_right - 1, num_guesses, success))
    below: Sequence[float] = binom.pmf([num_right - i for i in range(1, num_right + 1)], num_guesses, success)
    largest, total = 0.0, 0.0
    for i, probability in enumerate(below, start=1):
        total += float(probability)
        largest = max(largest, total / i)
    return min(1.0, tail + 2 * num_canaries * delta * largest)
