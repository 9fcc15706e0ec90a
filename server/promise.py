"""What a model says of differential privacy: in its manifests, and to whoever reads them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.study import Study
from server.ledger_heads import LedgerHeads
from server.run_folder import RunFolder

_TEN_THOUSAND = 10_000


@dataclass(frozen=True)
class Books:
    """What the coordinator knows of the sites' ledgers.

    Attributes:
        heads: Last head of each.
        trusted: Sites whose ledger a person took as it was, although it did not continue what was seen.
        mark: ``RESEARCH`` where they are a run's own and not a hospital's.
    """

    heads: Mapping[str, str] = field(default_factory=dict)
    trusted: Sequence[str] = ()
    mark: str = ""

    @classmethod
    def of(cls, run: RunFolder) -> "Books":
        """Return those of a run."""
        known = LedgerHeads(run.ledger_heads)
        return cls(known.latest(), known.trusted(), run.mark)


def promise(study: Study, books: Books) -> dict[str, Any] | None:
    """Return what the study promises to one patient of one site; None if it promises nothing."""
    if study.privacy is None:
        return None
    plan = study.private_plans[Stage.DIFFUSION]
    return {
        "epsilon": rounded_up(epsilon(study.private_events, study.privacy.delta)),
        "delta": study.privacy.delta,
        "unit": plan.unit,
        "relation": plan.relation,
        "mechanism": "Poisson-sampled Gaussian sums of clipped per-patient gradients",
        "stages": {
            stage.value: {
                "sampling_rate": plan.sampling_rate,
                "noise_multiplier": plan.noise_multiplier,
                "clip_norm": plan.clip_norm,
                "steps_paid_for": plan.steps,
            }
            for stage, plan in study.private_plans.items()
        },
        "public_model": study.privacy.public_model,
        "scope": "this study alone; what else a site took part in is in that site's ledger",
        "mark": books.mark,
        "ledger_heads": dict(books.heads),
        "ledgers_trusted_by_hand": list(books.trusted),
        "covers": "training at each site, by that site's own noise; not the choice of settings, and no "
        "measurement on patients that came after it; a patient whom several sites know loses more",
    }


def rounded_up(value: float) -> float:
    """Return an epsilon to four digits, never less than it is.

    >>> rounded_up(1.23451)
    1.2346
    """
    up: float = math.ceil(value * _TEN_THOUSAND) / _TEN_THOUSAND
    return up
