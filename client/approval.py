"""What the people of a site have agreed to, signed with the site's own key.

    approvals/STUDY.json     {"content": {study, coordinator, runs, when}, "seal": ...}

An agent does the orders of approved studies only, sealed by the coordinator that the approval names. The
record is the site's own: whoever cannot sign with the site's key cannot add to it.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, PositiveInt

from common.artifact import OWNER_ONLY
from common.errors import SealError, UnapprovedError
from common.frozen import FrozenModel
from common.seal import PublicSealKey, SealKey
from common.sealed_record import SealedRecord
from common.study import Study

PURPOSE = "approval"


class Approval(FrozenModel):
    """One study, as it was read and agreed to.

    Attributes:
        study: The whole study; its digest is what orders name.
        coordinator: Public key whose orders are done.
        runs: How often the study may be begun anew.
        time: When it was approved.
    """

    study: Study
    coordinator: str
    runs: PositiveInt = 1
    time: AwareDatetime

    @property
    def key(self) -> PublicSealKey:
        """The coordinator's public key."""
        return PublicSealKey.from_text(self.coordinator)


class Approvals:
    """The approvals of one site.

    Args:
        folder: Where they are kept.
        key: The site's public key, which must have signed them.
    """

    def __init__(self, folder: Path, key: PublicSealKey) -> None:
        self._folder = folder
        self._key = key

    def add(self, study: Study, coordinator: PublicSealKey, runs: int, key: SealKey) -> Approval:
        """Sign and keep an approval; an earlier one of the same study is replaced."""
        approval = Approval(study=study, coordinator=coordinator.text, runs=runs, time=datetime.now(UTC))
        self._folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        SealedRecord.of(PURPOSE, approval, key).write(self._path(study.digest))
        return approval

    def of(self, study_digest: str) -> Approval:
        """Return the approval of a study.

        Args:
            study_digest: 64 hexadecimal digits.

        Raises:
            UnapprovedError: There is none.
            SealError: It was not signed here, or was altered.
        """
        path = self._path(study_digest)
        if not path.is_file():
            raise UnapprovedError(
                f"study {study_digest[:12]} is not approved at this site",
                "read it: fedvox site approve STUDY",
            )
        return self._read(path)

    def all(self) -> list[Approval]:
        """Return every approval, the latest last.

        Raises:
            SealError: One was not signed here, or was altered.
        """
        return sorted(map(self._read, self._folder.glob("*.json")), key=lambda approval: approval.time)

    def _read(self, path: Path) -> Approval:
        approval = SealedRecord.read(path).verified(PURPOSE, Approval, self._key)
        if path.stem != approval.study.digest:
            raise SealError(f"{path} is the approval of another study", "approve the study again")
        return approval

    def _path(self, study_digest: str) -> Path:
        return self._folder / f"{study_digest}.json"
