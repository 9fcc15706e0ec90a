"""What a coordinator hands to a site, and what comes back: public things, a one-time token, no private key.

NAME.kit     ZIP: kit.json, runbook and service files; its SHA-256 is told by telephone
NAME.enrol   JSON: the site's public keys, sealed by one of them and by the kit's token
"""

import dataclasses
import hashlib
import hmac
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from common.artifact import PRIVATE_FILE, write_bytes_atomic
from common.errors import ConfigError, SealError
from common.federation.config import SiteName
from common.federation.headers import Release
from common.frozen import FrozenModel
from common.seal import PublicSealKey, SealKey
from common.sealed_record import SealedRecord
from common.study import Study

PURPOSE = "enrolment"
_CONTENT = "kit.json"
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the same kit has the same fingerprint
_LARGEST_KIT = 1 << 22

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,200}:\d{1,5}$")]
NodeKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,300}$")]


class Kit(FrozenModel):
    """A site's start-up kit.

    Attributes:
        version: Of this format.
        site: Name of the site.
        address: Host and port of the coordinator.
        authority: Certificates that the coordinator's own is checked with, PEM.
        coordinator: Public key that seals orders.
        token: Proves that an enrolment comes from whoever holds the kit; good for one.
        study: The study, to be read before it is approved.
    """

    version: Literal[1] = 1
    site: SiteName
    address: Address
    authority: str
    coordinator: str
    token: Token
    study: Study


class Enrolment(FrozenModel):
    """What a site tells of itself.

    Attributes:
        site: Name of the site.
        node_key: Public key of its connection, OpenSSH form.
        signing_key: Public key that seals its reports.
        release: Of fedvox at the site.
    """

    site: SiteName
    node_key: NodeKey
    signing_key: str
    release: Release

    @property
    def key(self) -> PublicSealKey:
        """The site's public key."""
        return PublicSealKey.from_text(self.signing_key)


def write_kit(path: Path, kit: Kit, files: Mapping[str, str]) -> str:
    """Write a kit; return its fingerprint.

    Args:
        path: Where to.
        kit: Its content.
        files: Texts that lie beside it, by name.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        texts = {_CONTENT: json.dumps(kit.model_dump(mode="json"), indent=1, sort_keys=True), **files}
        for name in sorted(texts):
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), texts[name], zipfile.ZIP_DEFLATED)
    write_bytes_atomic(path, content.getvalue(), mode=PRIVATE_FILE)  # it holds the token
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_kit(path: Path, fingerprint: str) -> tuple[Kit, dict[str, str]]:
    """Return a kit and the texts beside it, after comparing its fingerprint.

    Raises:
        ConfigError: There is no such file, or it is no kit.
        SealError: The fingerprint is another.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "check the path") from None
    found = hashlib.sha256(content).hexdigest()
    wanted = "".join(fingerprint.split()).replace(":", "").lower()
    if not hmac.compare_digest(found.encode(), wanted.encode()):
        raise SealError(
            f"{path} has the fingerprint {found[:16]}..., not the one that you were told",
            "do not use it; ask the coordinator on another way than the one it came by",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST_KIT:
                raise ValueError
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
        kit = Kit.model_validate_json(texts.pop(_CONTENT))
    except (ValueError, KeyError, zipfile.BadZipFile, ValidationError):
        raise ConfigError(f"{path} is no kit of this release", "install the coordinator's release") from None
    return kit, texts


def write_enrolment(path: Path, enrolment: Enrolment, key: SealKey, token: str) -> None:
    """Write what a site tells of itself."""
    record = SealedRecord.of(PURPOSE, enrolment, key)
    dataclasses.replace(record, beside={"proof": _proof(token, record.content)}).write(path)


def read_enrolment(path: Path) -> tuple[Enrolment, SealedRecord]:
    """Return an enrolment, which its own key sealed, and the record that `is_proven` takes.

    Raises:
        SealError: It is no enrolment, or its seal is not by the key in it.
    """
    record = SealedRecord.read(path)
    return record.verified(PURPOSE, Enrolment, record.unverified(Enrolment).key), record


def is_proven(record: SealedRecord, token: str) -> bool:
    """Return whether whoever wrote an enrolment held the kit with this token."""
    given = record.beside.get("proof", "")
    return hmac.compare_digest(given.encode(), _proof(token, record.content).encode())


def _proof(token: str, content: str) -> str:
    return hmac.new(bytes.fromhex(token), content.encode(), hashlib.sha256).hexdigest()
