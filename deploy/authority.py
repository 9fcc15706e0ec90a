"""The coordinator's certificates: an authority of its own, and short-lived certificates for its address.

The authority is the only one that sites believe, so that nobody else's mistake lets anybody in between. Its
key signs once in some weeks and may lie elsewhere in between. (RFC 5280; ECDSA on P-256.)

    ca.key             of the authority that signs
    ca.crt             those that are believed: one, or two while one follows another
    ca.next.key        of the one that will follow
    server.key .crt    for the coordinator's address
"""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.artifact import PRIVATE_FILE, write_bytes_atomic
from common.errors import ConfigError

AUTHORITY_DAYS, SERVER_DAYS = 3650, 90
NEXT_KEY = "ca.next.key"
WARN_DAYS = 21
_LONGEST_NAME = 64  # of a common name
_CLOCKS_DIFFER = datetime.timedelta(hours=1)


class Authority:
    """Issues the server's certificates.

    Args:
        folder: With ``ca.key`` and ``ca.crt``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
            self._believed = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
        except (OSError, ValueError):
            raise ConfigError(f"{folder} holds no authority", "fedvox provision STUDY makes one") from None
        own = [one for one in self._believed if one.public_key() == key.public_key()]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not own:
            raise ConfigError(f"{folder / 'ca.key'} is not the key of {folder / 'ca.crt'}", "restore it")
        self._key, self._certificate = key, own[0]

    @classmethod
    def create(cls, folder: Path, name: str) -> "Authority":
        """Return a new authority; an existing one is never replaced."""
        if (folder / "ca.key").exists():
            raise ConfigError(f"{folder} holds an authority", "renew its certificates instead")
        key, certificate = _new_authority(name)
        write_bytes_atomic(folder / "ca.crt", _pem(certificate), 0o644)
        write_bytes_atomic(folder / "ca.key", _private_pem(key), PRIVATE_FILE)
        return cls(folder)

    def prepare_next(self, name: str) -> None:
        """Make the authority that will follow; both are believed from now on, and the old one signs.

        One that is prepared already stays as it is: a call that was cut short is repeated.
        """
        if (self.folder / NEXT_KEY).exists():
            return
        key, following = _new_authority(name)
        self._believe(self._certificate, following)
        write_bytes_atomic(self.folder / NEXT_KEY, _private_pem(key), PRIVATE_FILE)

    def switch(self, host: str) -> "Authority":
        """Let the prepared authority sign, beginning with the server's certificate; return it.

        The old one is believed until `forget_old`.

        Raises:
            ConfigError: None is prepared.
        """
        if not (self.folder / NEXT_KEY).exists():
            raise ConfigError("no other authority is prepared", "fedvox provision authority prepare")
        following = load_pem_private_key((self.folder / NEXT_KEY).read_bytes(), None).public_key()
        if following not in [one.public_key() for one in self._believed]:
            raise ConfigError(f"{NEXT_KEY} is of no authority that is believed", "restore ca.crt")
        (self.folder / NEXT_KEY).rename(self.folder / "ca.key")
        switched = Authority(self.folder)
        switched.issue(host)
        return switched

    def forget_old(self) -> None:
        """Believe the authority that signs, and no other.

        Raises:
            ConfigError: Another one is prepared: it would be forgotten with its key.
        """
        if (self.folder / NEXT_KEY).exists():
            raise ConfigError("another authority is prepared", "fedvox provision authority switch")
        self._believe(self._certificate)

    def _believe(self, *certificates: x509.Certificate) -> None:
        self._believed = list(certificates)
        write_bytes_atomic(self.folder / "ca.crt", self.pem.encode(), 0o644)

    @property
    def pem(self) -> str:
        """The certificates of those that are believed."""
        return "".join(_pem(one).decode() for one in self._believed)

    @property
    def days_left(self) -> float:
        """For how many days the authority that signs is still good."""
        return _days_until(self._certificate.not_valid_after_utc)

    def issue(self, host: str, days: int = SERVER_DAYS) -> None:
        """Write ``server.key`` and ``server.crt`` for a host in place of earlier ones; sites notice nothing.

        Args:
            host: Name or address that sites connect to; the coordinator's own machine is always among them.
            days: How long they are good for.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = [_general_name(name) for name in dict.fromkeys((host, "localhost", "127.0.0.1"))]
        certificate = (
            _begun(subject, self._certificate.subject, key, days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        write_bytes_atomic(self.folder / "server.key", _private_pem(key), PRIVATE_FILE)
        write_bytes_atomic(self.folder / "server.crt", certificate.public_bytes(Encoding.PEM), 0o644)


def days_left(certificate: Path, now: datetime.datetime | None = None) -> float:
    """Return for how many days a certificate is still good; negative if it is not.

    Raises:
        ConfigError: There is none.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{certificate} is no certificate", "fedvox provision renew") from None
    return _days_until(found.not_valid_after_utc, now)


def _days_until(end: datetime.datetime, now: datetime.datetime | None = None) -> float:
    return (end - (now or datetime.datetime.now(datetime.UTC))).total_seconds() / 86400


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _new_authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedvox {today} {name}"[:_LONGEST_NAME])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _begun(subject, subject, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(os.urandom(16), "big") >> 1)
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
