"""What a hospital allows, whatever a study or a coordinator asks: the `policy` block of site.yaml.

policy:
require_privacy: true      # nothing is trained without differential privacy
epsilon: 8                 # most that all studies together may ever spend, for one patient
delta: 1.0e-5
ledger: /var/lib/fedvox/ledger
"""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, model_validator

from common.errors import ErrorCode, PrivacyError
from common.frozen import FrozenModel
from common.privacy.plan import Delta
from common.study import Study


class PolicyError(PrivacyError):
    """An order that the site's policy does not allow."""

    code = ErrorCode.CONFIG


class Policy(FrozenModel):
    """The site's own limits.

    Attributes:
        require_privacy: Refuse every study without differential privacy.
        epsilon: Cap of the joint epsilon over everything that the site ever takes part in; absent, no
            private study may run either.
        delta: Total delta of that.
        ledger: Folder of the site's one privacy ledger.
        mark: ``RESEARCH`` for experiments, whose epsilon is per run and covers no selection.
    """

    require_privacy: bool = False
    epsilon: PositiveFloat | None = None
    delta: Delta = 1e-5
    ledger: Path | None = None
    mark: Literal["", "RESEARCH"] = ""

    @model_validator(mode="after")
    def _complete(self) -> "Policy":
        if (self.epsilon is None) != (self.ledger is None):
            raise ValueError("epsilon and ledger belong together: a cap needs a book that it is kept in")
        return self


def check_policy(policy: Policy, study: Study) -> None:
    """Return if the site's policy allows the study.

    Raises:
        PolicyError: It does not; the message says which line of it.
    """
    if study.privacy is None:
        if policy.require_privacy:
            raise PolicyError(
                f"study {study.name} has no differential privacy, which policy.require_privacy asks for",
                "the coordinator must add a privacy section",
            )
        return
    if policy.epsilon is None:
        raise PolicyError(
            f"study {study.name} spends privacy, and site.yaml sets no cap",
            "set policy.epsilon, policy.delta and policy.ledger",
        )
    if study.privacy.epsilon > policy.epsilon:
        raise PolicyError(
            f"study {study.name} may spend epsilon {study.privacy.epsilon:g}, above policy.epsilon "
            f"{policy.epsilon:g}",
            "raise the cap only if the data protection officer agrees",
        )
