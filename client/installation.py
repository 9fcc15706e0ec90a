"""A site's installation: keys that are born here, the coordinator's public things, a file of settings.

    site.yaml          settings, to be completed by the site's engineer
    study.yaml         the study, to be read before `fedvox site approve`
    keys/sign.key      Ed25519, seals reports; the agent's alone
    courier/node.key   ECDSA P-384 in OpenSSH form, of the connection; the courier's alone
    coordinator.json   address and public key; ca.crt: what its certificate is checked with
    NAME.enrol         public keys, for the coordinator

Private keys are 0600 and never leave.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from common.artifact import OWNER_ONLY, PRIVATE_FILE, write_bytes_atomic, write_text_atomic
from common.authority_notice import NOTICE, AuthorityNotice
from common.errors import ConfigError, SealError
from common.kit import Enrolment, Kit, write_enrolment
from common.release import release
from common.seal import PublicSealKey, SealKey
from common.sealed_record import SealedRecord
from common.study import Study, load_study

SIGN_KEY, COURIER_FOLDER = "keys/sign.key", "courier"
NODE_KEY = f"{COURIER_FOLDER}/node.key"
SITE_FILE, STUDY_FILE, COORDINATOR_FILE, AUTHORITY_FILE = (
    "site.yaml",
    "study.yaml",
    "coordinator.json",
    "ca.crt",
)

SITE_TEMPLATE = """\
# What only {name} knows. Paths are meant from this file's folder.
name: {name}
data: {data}          # folder of NIfTI files
{patients}state: state                # caches, orders, approvals; holds data derived from patients
compute: {{device: cpu}}       # cuda for a GPU; threads: N limits the CPU
agent: {{socket: run/agent.sock}}   # group: NAME lets the courier's user in
policy:
  min_sites: 2              # a study that would do with fewer sites is refused
  min_patients: 5           # with fewer of your own, nothing is trained
{privacy}"""
PRIVATE_POLICY = """\
  epsilon: {epsilon:g}                # most that all studies together may ever spend for one patient:
  delta: {delta:g}              # ask your data protection officer, then fedvox site ledger create
  ledger: {ledger}    # the one book of this site, for all studies and coordinators
"""


class Installation:
    """The files of an installed site.

    Args:
        folder: The folder that `install` made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / COORDINATOR_FILE).is_file():  # the courier's user cannot even see the agent's key
            raise ConfigError(f"{folder} is no installed site", "fedvox site install KIT")

    @property
    def key(self) -> SealKey:
        """What reports are sealed with."""
        return SealKey.load(self.folder / SIGN_KEY)

    @property
    def study(self) -> Study:
        """The study that came with the kit."""
        return load_study(self.folder / STUDY_FILE)

    @property
    def coordinator(self) -> PublicSealKey:
        """The coordinator's public key."""
        return PublicSealKey.from_text(self._coordinator()["key"])

    @property
    def address(self) -> str:
        """Host and port of the coordinator."""
        return self._coordinator()["address"]

    def trust(self, notice_file: Path) -> AuthorityNotice:
        """Believe the authorities of a notice, if the study's coordinator wrote it; return it.

        Raises:
            SealError: It did not, or the site has seen a later one.
        """
        notice = SealedRecord.read(notice_file).verified(NOTICE, AuthorityNotice, self.coordinator)
        known = self._coordinator()
        if notice.number < int(known.get("notice", 0)):
            raise SealError(
                f"{notice_file} is notice {notice.number}, and notice {known['notice']} was there before",
                "ask the coordinator for the newest",
            )
        known["notice"] = str(notice.number)
        self._replace(AUTHORITY_FILE, notice.authorities)
        self._replace(COORDINATOR_FILE, json.dumps(known, indent=1))
        return notice

    def _replace(self, name: str, text: str) -> None:
        """Write a file that the courier's user reads too, for whom it stays readable."""
        path = self.folder / name
        before = path.stat()
        write_bytes_atomic(path, text.encode())
        path.chmod(stat.S_IMODE(before.st_mode))
        if path.stat().st_gid != before.st_gid:
            os.chown(path, -1, before.st_gid)

    def _coordinator(self) -> dict[str, str]:
        return dict(json.loads((self.folder / COORDINATOR_FILE).read_text(encoding="utf-8")))


def install(
    folder: Path,
    kit: Kit,
    texts: Mapping[str, str],
    data: Path,
    patients: Path | None = None,
    ledger: Path | None = None,
) -> Path:
    """Make the site's files from its kit; return the enrolment's path.

    Args:
        folder: Where to; it must not hold a site yet.
        kit: The kit, whose fingerprint was compared.
        texts: What lay beside it.
        data: The site's volumes.
        patients: Its patient table.
        ledger: Its privacy ledger, the same folder for every study: a second ledger would be a second budget
            for the same patients, so no default lies in an installation's own folder.

    Raises:
        ConfigError: There is a site already, or a private study has no ledger, or another has one.
    """
    if kit.study.privacy is not None and ledger is None:
        raise ConfigError(
            "this study spends of the patients' privacy, and a site has one ledger for all its studies",
            "--ledger FOLDER, the same folder for every study, such as /var/lib/fedvox/ledger",
        )
    if kit.study.privacy is None and ledger is not None:
        raise ConfigError(
            "this study has no privacy section, and would enter nothing in a ledger", "no --ledger"
        )
    if (folder / "keys").exists():
        raise ConfigError(f"{folder} holds a site's keys", "choose another --into; keys are not replaced")
    folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
    for name in ("keys", COURIER_FOLDER, f"{COURIER_FOLDER}/flower", "state", "run"):
        (folder / name).mkdir(mode=OWNER_ONLY)
    for name, text in texts.items():
        write_text_atomic(folder / Path(name).name, text)
    write_text_atomic(folder / AUTHORITY_FILE, kit.authority)
    coordinator = {"address": kit.address, "key": kit.coordinator}
    write_text_atomic(folder / COORDINATOR_FILE, json.dumps(coordinator, indent=1))
    study = yaml.safe_dump(kit.study.model_dump(mode="json", exclude_none=True), sort_keys=False)
    write_text_atomic(folder / STUDY_FILE, study)
    write_text_atomic(folder / SITE_FILE, _site_text(kit, data, patients, ledger))
    node = ec.generate_private_key(ec.SECP384R1())
    node_pem = node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_bytes_atomic(folder / NODE_KEY, node_pem, PRIVATE_FILE)
    public = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    key = SealKey.generate()
    enrolment = Enrolment(site=kit.site, node_key=public, signing_key=key.public.text, release=release())
    path = folder / f"{kit.site}.enrol"
    write_enrolment(path, enrolment, key, kit.token)
    key.save(folder / SIGN_KEY)  # last: with it the site is installed
    os.sync()
    return path


def _site_text(kit: Kit, data: Path, patients: Path | None, ledger: Path | None) -> str:
    privacy = kit.study.privacy
    table = f"patients: {_in_yaml(patients)}\n" if patients is not None else ""
    policy = ""
    if privacy is not None and ledger is not None:
        policy = PRIVATE_POLICY.format(epsilon=privacy.epsilon, delta=privacy.delta, ledger=_in_yaml(ledger))
    return SITE_TEMPLATE.format(name=kit.site, data=_in_yaml(data), patients=table, privacy=policy)


def _in_yaml(path: Path) -> str:
    """Return an absolute path as one line of YAML, quoted where a blank and a # or a colon need it."""
    return yaml.safe_dump(str(path.resolve()), width=math.inf, allow_unicode=True).splitlines()[0]
