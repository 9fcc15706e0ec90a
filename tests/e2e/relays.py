"""Relays of bytes for tests: what passes is written down, after TLS was taken off it where there is any."""

import contextlib
import itertools
import socket
import ssl
import sys
import threading
from pathlib import Path


class Relay:
    """Passes bytes on between whoever connects and a target, and writes them all down.

    Args:
        listen: A bound socket that listens.
        target: Opens a connection to the target.
        record: Folder of one file for each direction of each connection: what others send meanwhile tears
            nothing in two.
        accept: Makes a connection of a raw one: takes off TLS.
    """

    def __init__(self, listen, target, record: Path, accept=lambda raw: raw) -> None:
        self.listen, self.target, self.record, self.accept = listen, target, record, accept
        self.numbers = itertools.count()
        record.mkdir()

    def serve(self) -> None:
        while True:
            raw, _ = self.listen.accept()
            threading.Thread(target=self._pass, args=(raw,), daemon=True).start()

    def _pass(self, raw) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            near, far = self.accept(raw), self.target()
            number = next(self.numbers)
            for source, sink, way in ((near, far, "to"), (far, near, "from")):
                words = (source, sink, self.record / f"{number}-{way}")
                threading.Thread(target=self._copy, args=words, daemon=True).start()

    def _copy(self, source, sink, record: Path) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), record.open("wb", buffering=0) as file:
            while content := source.recv(1 << 16):
                file.write(content)
                sink.sendall(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def tls_relay(host: str, port: int, behind: int, home: Path, record: Path) -> Relay:
    """Return a relay that shows the coordinator's own certificate: to sites it is the coordinator."""
    inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inward.load_cert_chain(home / "server.crt", home / "server.key")
    outward = ssl.create_default_context(cafile=home / "ca.crt")

    def target():
        return outward.wrap_socket(socket.create_connection((host, behind)), server_hostname=host)

    listen = socket.create_server((host, port), backlog=64)
    return Relay(listen, target, record, lambda raw: inward.wrap_socket(raw, server_side=True))


def socket_relay(path: Path, behind: Path, record: Path) -> Relay:
    """Return a relay in front of an agent's socket."""
    listen = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    listen.bind(str(path))
    listen.listen(16)

    def target():
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(behind))
        return far

    return Relay(listen, target, record)


def main() -> None:
    """``tls HOST PORT BEHIND HOME RECORD`` or ``socket PATH BEHIND RECORD``, until killed."""
    kind, *words = sys.argv[1:]
    if kind == "tls":
        host, port, behind, home, record = words
        relay = tls_relay(host, int(port), int(behind), Path(home), Path(record))
    else:
        relay = socket_relay(*map(Path, words))
    print("relays", flush=True)
    relay.serve()


if __name__ == "__main__":
    main()
