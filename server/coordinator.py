"""The coordinator's folder: its key, and the sites that it knows.

    study.key        seals orders; made here, never leaves
    authority.notice which authorities the sites are to believe, once another one follows
    ca.* server.*    its authority and certificates (deploy/authority.py)
    sites.json       by site: token of its kit until it was used, public keys since
    revoked.json     numbered and sealed: the keys that count no more
    study.yaml       the study that the kits were made for

A site is invited (it has a kit), then enrolled (its keys are known), and may be revoked for good.
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, NonNegativeInt

from common.artifact import OWNER_ONLY, write_text_atomic
from common.authority_notice import NOTICE, AuthorityNotice
from common.errors import ConfigError, SealError
from common.federation.config import SiteName
from common.frozen import FrozenModel
from common.kit import Enrolment, Kit, is_proven, read_enrolment
from common.seal import PublicSealKey, SealKey
from common.sealed_record import SealedRecord
from common.study import Study, load_study
from server.revocations import REVOKED, Revocations, read_revocations

STUDY_KEY, SITES, STUDY, ADDRESS = "study.key", "sites.json", "study.yaml", "address"
REVOCATIONS, NOTICE_FILE = "revoked.json", "authority.notice"


class KnownSite(FrozenModel):
    """What the coordinator knows of a site.

    Attributes:
        token: Of its kit, until an enrolment used it.
        enrolment: Its public keys.
    """

    token: str | None = None
    enrolment: Enrolment | None = None


class _Sites(FrozenModel):
    """The file of sites.

    Attributes:
        sites: By name.
        revocations: Number of the newest list of revocations, so that an older copy is noticed.
    """

    revocations: NonNegativeInt = 0
    sites: dict[SiteName, KnownSite] = Field(default_factory=dict)


class Coordinator:
    """One coordinator.

    Args:
        folder: Its folder, which `create` made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not self.is_complete(folder):
            raise ConfigError(f"{folder} is no coordinator's folder", "fedvox provision STUDY makes one")

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Return whether a coordinator was made in a folder, to its end."""
        return (folder / STUDY_KEY).is_file()

    @classmethod
    def create(cls, folder: Path, study_text: str, address: str) -> "Coordinator":
        """Return a new coordinator for a study, with a key of its own.

        Args:
            folder: Where to keep them; its owner's alone.
            study_text: The study's file.
            address: Host and port that sites connect to.
        """
        folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        if (folder / STUDY_KEY).exists():
            raise ConfigError(
                f"{folder} holds a coordinator's keys", "choose another --home, or go on with it"
            )
        write_text_atomic(folder / STUDY, study_text)
        write_text_atomic(folder / ADDRESS, address + "\n")
        write_text_atomic(folder / SITES, _Sites().model_dump_json())
        key = SealKey.generate()
        SealedRecord.of(REVOKED, Revocations(), key).write(folder / REVOCATIONS)
        key.save(folder / STUDY_KEY)
        return cls(folder)

    @property
    def key(self) -> SealKey:
        """What orders are sealed with."""
        return SealKey.load(self.folder / STUDY_KEY)

    @property
    def study(self) -> Study:
        """The study."""
        return load_study(self.folder / STUDY)

    @property
    def address(self) -> str:
        """Host and port that sites connect to."""
        return (self.folder / ADDRESS).read_text(encoding="utf-8").strip()

    @property
    def sites(self) -> dict[str, KnownSite]:
        """What is known, by site."""
        return dict(self._known().sites)

    @property
    def revocations(self) -> Revocations:
        """Whose keys count no more.

        Raises:
            SealError: The list is missing, not this study's, or older than one that was there before.
        """
        return read_revocations(self.folder / REVOCATIONS, self.key.public, self._known().revocations)

    def invite(self, site: str, authority: str) -> Kit:
        """Return a new kit for a site; an earlier one that was not used is worth nothing any more.

        Args:
            site: Its name.
            authority: What the coordinator's certificates are checked with, PEM.

        Raises:
            ConfigError: The study has no such site, or it is enrolled or revoked.
        """
        known = self.sites
        study = self.study
        if site not in study.federation.sites:
            raise ConfigError(f"the study has no site {site}", f"it has {', '.join(study.federation.sites)}")
        if site in known and known[site].token is None:
            state = "revoked" if site in self.revocations.sites else "enrolled"
            raise ConfigError(f"site {site} is {state}", "a site has one set of keys, for good")
        kit = Kit(
            site=site,
            address=self.address,
            authority=authority,
            coordinator=self.key.public.text,
            token=secrets.token_hex(32),
            study=study,
        )
        self._save(known | {site: KnownSite(token=kit.token)})
        return kit

    def enrol(self, files: Sequence[Path]) -> list[Enrolment]:
        """Take sites' public keys, all of the files or none.

        Raises:
            ConfigError: A file is no enrolment, or its site was not invited or is enrolled.
            SealError: It was not written by whoever holds the site's kit.
        """
        known, taken = self.sites, []
        for file in files:
            enrolment, record = read_enrolment(file)
            revoked = self.revocations
            if enrolment.key.fingerprint in revoked.keys or enrolment.site in revoked.sites:
                raise SealError(f"{file}: this key of {enrolment.site} was revoked", "for good")
            invited = known.get(enrolment.site, KnownSite())
            if invited.token is None:
                if invited.enrolment == enrolment:
                    continue  # the same file again
                raise ConfigError(
                    f"{file}: site {enrolment.site} has no kit that is still to be used",
                    "invite it first; the keys of an enrolled site do not change",
                )
            if not is_proven(record, invited.token):
                raise SealError(f"{file} was not written with the kit of {enrolment.site}", "ask the site")
            known[enrolment.site] = KnownSite(enrolment=enrolment)
            taken.append(enrolment)
        self._save(known)
        return taken

    def revoke(self, site: str) -> None:
        """Take nothing from a site any more, for good.

        Raises:
            ConfigError: It is not known.
        """
        known, revocations = self.sites, self.revocations
        if site not in known:
            raise ConfigError(f"site {site} is not known", f"known: {', '.join(sorted(known)) or 'nobody'}")
        enrolment = known[site].enrolment
        key = None if enrolment is None else enrolment.key.fingerprint
        longer = revocations.with_one(site, key)
        SealedRecord.of(REVOKED, longer, self.key).write(self.folder / REVOCATIONS)
        self._save(known | {site: KnownSite(enrolment=enrolment)}, longer.number)

    def notice(self, authorities: str) -> Path:
        """Write the word that sites are to believe these authorities; return the file, which goes to all.

        Args:
            authorities: Their certificates, PEM.
        """
        path = self.folder / NOTICE_FILE
        number = 1
        if path.is_file():
            number += SealedRecord.read(path).verified(NOTICE, AuthorityNotice, self.key.public).number
        SealedRecord.of(NOTICE, AuthorityNotice(number=number, authorities=authorities), self.key).write(path)
        return path

    def keys(self) -> dict[str, PublicSealKey]:
        """Return the public keys of the enrolled sites."""
        revoked = self.revocations
        return {
            name: site.enrolment.key
            for name, site in sorted(self.sites.items())
            if site.enrolment is not None
            and site.enrolment.key.fingerprint not in revoked.keys
            and name not in revoked.sites
        }

    def _known(self) -> _Sites:
        return _Sites.model_validate_json((self.folder / SITES).read_bytes())

    def _save(self, known: dict[str, KnownSite], revocations: int | None = None) -> None:
        number = self._known().revocations if revocations is None else revocations
        content = _Sites(sites=known, revocations=number).model_dump(mode="json")
        write_text_atomic(self.folder / SITES, json.dumps(content, indent=2, sort_keys=True))
