"""Whose keys count no more: a numbered list that the study's key sealed.

Every list holds the one before it. Whoever has seen a number takes no smaller one: a copy of an older list
would let a revoked site in again.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, NonNegativeInt

from common.errors import SealError
from common.federation.config import SiteName
from common.frozen import FrozenModel
from common.seal import PublicSealKey
from common.sealed_record import SealedRecord

REVOKED = "revocation"


class Revocation(FrozenModel):
    """One site that was revoked.

    Attributes:
        site: Its name.
        key: Fingerprint of its signing key; None if it never enrolled.
        time: When.
    """

    site: SiteName
    key: str | None
    time: AwareDatetime


class Revocations(FrozenModel):
    """The list.

    Attributes:
        number: Of this list; the one that came before has the number before.
        revoked: The sites, in the order they were revoked.
    """

    number: NonNegativeInt = 0
    revoked: tuple[Revocation, ...] = ()

    @property
    def sites(self) -> set[str]:
        """Names of the sites."""
        return {one.site for one in self.revoked}

    @property
    def keys(self) -> set[str]:
        """Fingerprints of their signing keys."""
        return {one.key for one in self.revoked if one.key is not None}

    def with_one(self, site: str, key: str | None) -> "Revocations":
        """Return the next list, which holds a site more."""
        one = Revocation(site=site, key=key, time=datetime.now(UTC))
        return Revocations(number=self.number + 1, revoked=(*self.revoked, one))


def read_revocations(path: Path, key: PublicSealKey, at_least: int) -> Revocations:
    """Return the list in a file.

    Args:
        path: The file.
        key: The study's.
        at_least: The largest number that was seen.

    Raises:
        SealError: It is missing or not the study's, or older than one that was seen.
    """
    found = SealedRecord.read(path).verified(REVOKED, Revocations, key)
    if found.number < at_least:
        raise SealError(
            f"{path} is list {found.number} of revocations, and list {at_least} was there before",
            "restore the newest copy; the older one would let revoked sites in",
        )
    return found
