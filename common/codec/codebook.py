"""What the server does with the summed codebook state between rounds.

Counts and vector sums of all sites have been added; codes are their ratio. A code that hardly any
latent chose is dead: it is never refilled with a patient's vector (which would publish it), but takes
half of a busy code, moved a little to one side, the other half to the other:

    N <- N/2 each,   S <- S/2 ± N/2 δ        so that total count and total sum stay as they were.

The rule is a pure function of the sums, relative to their mean count: it commutes with scaling, and
under differential privacy it is post-processing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

COUNTS, SUMS = "codec.quantizer.counts", "codec.quantizer.sums"
DEAD_SHARE = 0.05  # of the mean count
NUDGE = 0.1  # of the codes' deviation per channel


def is_codebook_sum(name: str) -> bool:
    """Return whether a tensor of the codec stage is a sum over latents rather than a parameter."""
    return name in {COUNTS, SUMS}


def split_dead_codes_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the codec stage's state with dead codes split off busy ones; without a codebook, as it is."""
    if COUNTS not in state:
        return dict(state)
    counts, sums = split_dead_codes(state[COUNTS], state[SUMS])
    return {**state, COUNTS: counts, SUMS: sums}


def split_dead_codes(counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return counts and sums in which no code is dead, as far as there are busy codes to split.

    Args:
        counts: Count of each code [code].
        sums: Sum of the vectors of each code [code, code_dim].

    Returns:
        New tensors of the same dtypes; computed in float64.
    """
    number, total = counts.double().clone(), sums.double().clone()
    codes = total / number.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    dead = torch.nonzero(number < DEAD_SHARE * number.mean()).flatten()
    # Stable sort: equal counts are split in the order of their indices.
    busy = torch.sort(number, descending=True, stable=True).indices[: len(counts) - len(dead)]
    weights = (number / number.sum())[:, None]
    spread = (weights * (codes - (weights * codes).sum(dim=0)).square()).sum(dim=0).sqrt()
    for rank, (empty, full) in enumerate(zip(dead.tolist(), busy.tolist(), strict=False)):
        if number[full] <= 2 * DEAD_SHARE * number.mean():
            break
        half_count, half_sum = (number[full] + number[empty]) / 2, (total[full] + total[empty]) / 2
        step = half_count * NUDGE * spread * _signs(rank, len(spread)).to(spread.device)
        number[full] = number[empty] = half_count
        total[full], total[empty] = half_sum + step, half_sum - step
    return number.to(counts.dtype), total.to(sums.dtype)


def _signs(rank: int, size: int) -> Tensor:
    """Return +1 or -1 per channel from the bits of ``rank``: neighbours split along other diagonals."""
    return torch.tensor([1.0 if rank >> bit & 1 else -1.0 for bit in range(size)], dtype=torch.float64)
