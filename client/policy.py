"""What a hospital allows, whatever a study or a coordinator asks: the `policy` block of site.yaml.

    policy:
      epsilon: 8                 # most that all studies together may ever spend, for one patient
      delta: 1.0e-5
      ledger: /var/lib/fedvox/ledger
      require_privacy: true      # nothing is trained without differential privacy

With a ledger, the last line need not be written.
"""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from common.frozen import FrozenModel
from common.privacy.plan import Delta


class Policy(FrozenModel):
    """The site's own limits.

    Attributes:
        require_privacy: Refuse every study without differential privacy. Left out, a site that has a ledger
            does so: what a study without noise tells of its patients is in no book.
        epsilon: Cap of the joint epsilon over everything that the site ever takes part in; absent, no
            private study may run either.
        delta: Total delta of that.
        ledger: Folder of the site's one privacy ledger.
        min_sites: Sites that a round must have at least: of one alone, the model is that site's own.
        min_patients: Patients that the site must have at least: of one alone, the model is that patient's.
        mark: ``RESEARCH`` for experiments, whose epsilon is per run and covers no selection.
    """

    require_privacy: bool | None = None
    epsilon: PositiveFloat | None = None
    delta: Delta = 1e-5
    ledger: Path | None = None
    min_sites: PositiveInt = 1
    min_patients: PositiveInt = 1
    mark: Literal["", "RESEARCH"] = ""

    @model_validator(mode="after")
    def _complete(self) -> "Policy":
        if (self.epsilon is None) != (self.ledger is None):
            raise ValueError("epsilon and ledger belong together: a cap needs a book that it is kept in")
        return self

    @property
    def refuses_studies_without_privacy(self) -> bool:
        """What `require_privacy` says, or its default."""
        return self.ledger is not None if self.require_privacy is None else self.require_privacy
