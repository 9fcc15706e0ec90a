"""Which patients take part in a step: an independent coin for each.

Poisson sampling is what the accountants' amplification is proven for. Shuffled batches of a fixed size
are not: at epsilon 7.3 on paper they may spend 30 (docs/privacy-pitfalls.md). A draw is never filled up,
cut off or repeated; nobody at all is a draw like any other.
"""

from collections.abc import Sequence

from client.private.secret_stream import RoundSecret


def drawn_patients(
    pseudonyms: Sequence[str], sampling_rate: float, secret: RoundSecret, stage: str, step: int
) -> list[str]:
    """Return the patients of one step, in the order given.

    Args:
        pseudonyms: Every patient of the site, each once.
        sampling_rate: Probability of each.
        secret: The round's.
        stage: Stage of the study.
        step: Step of the stage, over all rounds: no two steps share coins.
    """
    return [
        pseudonym
        for pseudonym in pseudonyms
        if secret.stream("coin", stage, step, pseudonym).uniform(1)[0] <= sampling_rate
    ]
