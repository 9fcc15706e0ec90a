"""Initial parameters as a pure function of a generator.

PyTorch's layers initialise themselves from the global CPU generator and take no other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def initialised_from(generator: torch.Generator) -> Iterator[None]:
    """Let modules built inside draw from ``generator`` and leave the global generator as it was."""
    seed = int(torch.randint(2**32, (), generator=generator, device=generator.device))
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
