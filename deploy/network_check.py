"""What stands between a site and its coordinator, layer by layer: `fedvox site check --network`.

    proxy         whether the environment names one, and whether it lets us through
    name          whether the coordinator's name is known
    connection    whether its port answers
    certificate   whether it is by the study's authority, or by somebody who inspects TLS; days left
    server        whether fedvox answers behind it
    clock         whether both clocks agree: Flower refuses a connection whose clock is off

Every layer is a `Finding` with a code; what lies behind a broken layer is not looked at.
"""

import base64
import contextlib
import datetime
import email.utils
import http.client
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from deploy.authority import WARN_DAYS

TIMEOUT_S = 15.0
AHEAD_S, BEHIND_S = 4.0, 300.0  # Flower takes 5 s ahead of its clock and 305 s behind (measured on 1.41)

_EXPIRED, _NOT_YET_VALID = 10, 9  # OpenSSL's X509_V_ERR_*
_OTHER_HOST, _OTHER_ADDRESS = 62, 64


@dataclass(frozen=True)
class Finding:
    """One layer.

    Attributes:
        layer: Which.
        code: ``ok``, ``W_...`` for what will break soon, ``E_...`` for what is broken.
        text: What was found, and what to do about it.
    """

    layer: str
    code: str
    text: str

    @property
    def is_broken(self) -> bool:
        """Whether nothing works before it is mended."""
        return self.code.startswith("E_")


def check_network(address: str, authority: Path) -> Iterator[Finding]:
    """Yield what is found, up to the first broken layer.

    Args:
        address: Host and port of the coordinator.
        authority: File of the certificates that its own is checked with.
    """
    host, _, port = address.rpartition(":")
    for finding in _layers(host, int(port), authority):
        yield finding
        if finding.is_broken:
            return


def _layers(host: str, port: int, authority: Path) -> Iterator[Finding]:
    proxy = Proxy.towards(host)
    yield _proxy_finding(proxy)
    if proxy is None:  # behind one, names are its business
        yield _name_finding(host)
    try:
        certificate, status, offset = _asked(host, port, proxy, ssl.create_default_context(cafile=authority))
    except ssl.SSLCertVerificationError as error:
        yield from _untrusted(error, host, port, proxy)
        return
    except ssl.SSLError as error:
        reason = error.reason or "no TLS"
        yield Finding("connection", "E_TLS", f"{host}:{port} speaks no TLS that we know ({reason})")
        return
    except OSError as error:
        yield _unreachable(error, host, port, proxy)
        return
    except http.client.HTTPException:
        yield Finding("connection", "E_SERVER", f"what answers at {host}:{port} speaks no HTTP")
        return
    yield Finding("connection", "ok", f"{host}:{port} answers")
    yield _days_finding(certificate)
    if status != http.HTTPStatus.OK:
        yield Finding(
            "server", "E_SERVER", f"the proxy there answers, and Flower behind it does not ({status})"
        )
    else:
        yield Finding("server", "ok", "Flower's server answers")
    yield clock_finding(offset)


@dataclass(frozen=True)
class Proxy:
    """What HTTPS_PROXY names.

    Attributes:
        address: Host and port.
        headers: Who we are, if its URL says so.
    """

    address: tuple[str, int]
    headers: Mapping[str, str]

    @classmethod
    def towards(cls, host: str) -> "Proxy | None":
        """Return the proxy that the environment names for HTTPS to a host."""
        url = urllib.request.getproxies_environment().get("https")
        if not url or urllib.request.proxy_bypass(host):
            return None
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        headers = {}
        if parts.username is not None:
            who = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(who.encode()).decode()}"
        return cls((parts.hostname or "", parts.port or 3128), headers)


def _proxy_finding(proxy: Proxy | None) -> Finding:
    if proxy is None:
        return Finding("proxy", "ok", "none: HTTPS_PROXY is not set, or NO_PROXY names the coordinator")
    name, port = proxy.address
    try:
        socket.create_connection(proxy.address, TIMEOUT_S).close()
    except OSError as error:
        return Finding("proxy", "E_PROXY", f"{name}:{port} of HTTPS_PROXY does not answer: {error}")
    return Finding("proxy", "ok", f"{name}:{port}, by HTTPS_PROXY")


def _name_finding(host: str) -> Finding:
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding(
            "name", "E_DNS", f"{host} is not known here ({error}): ask for a DNS entry, or set HTTPS_PROXY"
        )
    addresses = sorted({str(entry[4][0]) for entry in entries})
    return Finding("name", "ok", f"{host} is {', '.join(addresses)}")


def _asked(
    host: str, port: int, proxy: Proxy | None, context: ssl.SSLContext
) -> tuple[bytes, int, float | None]:
    """Return the server's certificate (DER), its answer's status, and by how much our clock is ahead of its.

    Raises:
        OSError: It cannot be reached, or shows no certificate that ``context`` takes.
    """
    address = (host, port) if proxy is None else proxy.address
    connection = http.client.HTTPSConnection(*address, timeout=TIMEOUT_S, context=context)
    if proxy is not None:
        connection.set_tunnel(host, port, dict(proxy.headers))
    with contextlib.closing(connection):
        connection.connect()
        shown = connection.sock.getpeercert(binary_form=True)
        asked_at = datetime.datetime.now(datetime.UTC)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answered_at = datetime.datetime.now(datetime.UTC)
        said = answer.getheader("Date")
    offset = None
    with contextlib.suppress(ValueError):  # an odd date, or none
        middle = asked_at + (answered_at - asked_at) / 2
        offset = (middle - email.utils.parsedate_to_datetime(said or "")).total_seconds()
    return shown or b"", answer.status, offset


def _unreachable(error: OSError, host: str, port: int, proxy: Proxy | None) -> Finding:
    if proxy is not None:
        return Finding(
            "connection", "E_PROXY", f"the proxy does not let us through to {host}:{port}: {error}"
        )
    return Finding(
        "connection",
        "E_CONNECT",
        f"{host}:{port} does not answer ({error}): a firewall on the way out, or the server is down",
    )


def _untrusted(
    error: ssl.SSLCertVerificationError, host: str, port: int, proxy: Proxy | None
) -> Iterator[Finding]:
    """Yield why a certificate is not taken, with what it says of itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to say what is wrong with it
    try:
        shown, _, offset = _asked(host, port, proxy, context)
        certificate = x509.load_der_x509_certificate(shown)
    except (OSError, ValueError, http.client.HTTPException):
        yield Finding("certificate", "E_TLS", f"it is not taken: {error.verify_message}")
        return
    match error.verify_code:
        case code if code in {_EXPIRED, _NOT_YET_VALID}:
            clock = clock_finding(offset)
            if clock.is_broken:
                yield clock
            yield Finding(
                "certificate",
                "E_CERT_EXPIRED",
                f"good from {certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}: ask the coordinator for a new one "
                "(fedvox provision renew)",
            )
        case code if code in {_OTHER_HOST, _OTHER_ADDRESS}:
            yield Finding(
                "certificate", "E_CERT_NAME", f"it is not for {host}: ask the coordinator for its address"
            )
        case _:
            issuer = certificate.issuer.rfc4514_string()
            yield Finding(
                "certificate",
                "E_TLS_INSPECTION",
                f"it is issued by {issuer!r}, not by the study's authority: a firewall inspects TLS "
                "on the way (ask for an exception), or another authority followed (fedvox site trust)",
            )


def _days_finding(certificate: bytes) -> Finding:
    end = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    days = (end - datetime.datetime.now(datetime.UTC)).days
    if days < WARN_DAYS:
        return Finding("certificate", "W_CERT_SOON", f"good for {days} more days: tell the coordinator")
    return Finding("certificate", "ok", f"by the study's authority, good for {days} more days")


def clock_finding(offset_s: float | None) -> Finding:
    """Return whether a clock that is ahead of the server's by so much is near enough."""
    if offset_s is None:
        return Finding("clock", "W_CLOCK", "the server does not say its time")
    where = f"{abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} the coordinator's"
    if not -BEHIND_S <= offset_s <= AHEAD_S:
        return Finding(
            "clock", "E_CLOCK", f"this machine's clock is {where}: set it (NTP); connections are refused"
        )
    return Finding("clock", "ok", f"this machine's clock is {where}")
