"""Every layer between a site and its coordinator is named when it is the one that is broken."""

import datetime
import email.utils
import http.server
import select
import socket
import socketserver
import ssl
import threading

import pytest

from deploy import network_check
from deploy.authority import Authority
from deploy.network_check import check_network, clock_finding


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network_check, "TIMEOUT_S", 5.0)


@pytest.fixture
def authority(tmp_path):
    made = Authority.create(tmp_path, "small")
    made.issue("fed.example.org")
    return made


@pytest.fixture
def serve():
    """Return a function that serves a folder's certificate on loopback and says the port."""
    servers = []

    def start(folder, status=200, ahead_s=0.0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response_only(status)
                now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead_s)
                self.send_header("Date", email.utils.format_datetime(now, usegmt=True))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def codes(address, authority):
    return {finding.layer: finding.code for finding in check_network(address, authority.folder / "ca.crt")}


ALL_WELL = {
    "proxy": "ok",
    "name": "ok",
    "connection": "ok",
    "certificate": "ok",
    "server": "ok",
    "clock": "ok",
}


def test_all_well(authority, serve):
    assert codes(f"127.0.0.1:{serve(authority.folder)}", authority) == ALL_WELL


def test_a_name_that_nobody_knows(authority):
    assert codes("no-such-host.invalid:443", authority) == {"proxy": "ok", "name": "E_DNS"}


def test_a_port_that_does_not_answer(authority):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        found = codes(f"127.0.0.1:{held.getsockname()[1]}", authority)
    assert found == {"proxy": "ok", "name": "ok", "connection": "E_CONNECT"}


def test_somebody_else_s_certificate_is_called_inspection_and_says_whose_it_is(authority, serve, tmp_path):
    (tmp_path / "firewall").mkdir()
    firewall = Authority.create(tmp_path / "firewall", "Zscaler")
    firewall.issue("127.0.0.1")
    found = list(check_network(f"127.0.0.1:{serve(firewall.folder)}", authority.folder / "ca.crt"))
    assert found[-1].code == "E_TLS_INSPECTION"
    assert "Zscaler" in found[-1].text


def test_a_certificate_of_another_address(authority, serve):
    assert codes(f"127.0.0.2:{serve_everywhere(authority, serve)}", authority)["certificate"] == "E_CERT_NAME"


def serve_everywhere(authority, serve):
    """Return a port that also answers at other loopback addresses: a relay of bytes."""
    target = serve(authority.folder)
    return relay(("127.0.0.2", 0), lambda _: ("127.0.0.1", target))


def test_an_expired_certificate(authority, serve):
    authority.issue("127.0.0.1", days=0)
    assert codes(f"127.0.0.1:{serve(authority.folder)}", authority)["certificate"] == "E_CERT_EXPIRED"


def test_an_expired_certificate_of_a_machine_whose_clock_is_off_names_the_clock_first(authority, serve):
    authority.issue("127.0.0.1", days=0)
    found = list(
        check_network(f"127.0.0.1:{serve(authority.folder, ahead_s=-86400)}", authority.folder / "ca.crt")
    )
    assert found[-1].code == "E_CLOCK"


def test_a_certificate_that_ends_soon_is_a_warning_and_the_rest_is_looked_at(authority, serve):
    authority.issue("127.0.0.1", days=20)
    assert codes(f"127.0.0.1:{serve(authority.folder)}", authority) == ALL_WELL | {
        "certificate": "W_CERT_SOON"
    }


def test_a_proxy_there_without_flower_behind_it(authority, serve):
    assert codes(f"127.0.0.1:{serve(authority.folder, status=502)}", authority)["server"] == "E_SERVER"


def test_a_server_that_speaks_no_tls(authority):
    with socketserver.TCPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = codes(f"127.0.0.1:{server.server_address[1]}", authority)
        server.shutdown()
    assert found["connection"] in {"E_TLS", "E_CONNECT"}


class Plain(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(100)
        self.request.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_clock_that_is_off(authority, serve, ahead_s):
    assert codes(f"127.0.0.1:{serve(authority.folder, ahead_s=ahead_s)}", authority)["clock"] == "E_CLOCK"


@pytest.mark.parametrize(
    ("offset", "code"),
    [(0.0, "ok"), (3.9, "ok"), (4.1, "E_CLOCK"), (-299.0, "ok"), (-301.0, "E_CLOCK"), (None, "W_CLOCK")],
)
def test_the_window_that_flower_leaves(offset, code):
    assert clock_finding(offset).code == code


def relay(at, target_of):
    """Return the port of a relay of bytes; a CONNECT line, if one comes first, is answered."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self):
            host = target_of(self.request)
            if host is None:
                return
            with socket.create_connection(host) as other:
                ends = {self.request: other, other: self.request}
                while True:
                    for ready in select.select(list(ends), [], [])[0]:
                        content = ready.recv(65536)
                        if not content:
                            return
                        ends[ready].sendall(content)

    server = socketserver.ThreadingTCPServer(at, Relay)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def test_through_a_proxy_whose_business_names_are(authority, serve, monkeypatch):
    target = serve(authority.folder)
    asked = []

    def connect(request):
        line = request.recv(4096).decode().splitlines()[0]
        asked.append(line)
        request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return ("127.0.0.1", target)

    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{relay(('127.0.0.1', 0), connect)}")
    found = codes("fed.example.org:443", authority)  # a name that only the proxy knows
    assert found == {layer: code for layer, code in ALL_WELL.items() if layer != "name"}
    assert [line.rpartition(" ")[0] for line in asked] == ["CONNECT fed.example.org:443"]


def test_a_proxy_that_does_not_let_us_through(authority, monkeypatch):
    def refuse(request):
        request.recv(4096)
        request.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{relay(('127.0.0.1', 0), refuse)}")
    found = list(check_network("fed.example.org:443", authority.folder / "ca.crt"))
    assert found[-1].code == "E_PROXY"
    assert "407" in found[-1].text


def test_a_proxy_that_is_not_there(authority, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert codes("fed.example.org:443", authority) == {"proxy": "E_PROXY"}


def test_no_proxy_goes_around_it(authority, serve, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert codes(f"127.0.0.1:{serve(authority.folder)}", authority) == ALL_WELL


def test_a_proxy_is_told_who_we_are_if_its_address_says_so(authority, serve, monkeypatch):
    target, asked = serve(authority.folder), []

    def connect(request):
        line = request.recv(4096).decode()
        if not line:  # one that only looks whether the proxy is there says nothing, whenever its turn comes
            return None
        asked.append(line)
        request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return ("127.0.0.1", target)

    port = relay(("127.0.0.1", 0), connect)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{port}")
    assert codes("fed.example.org:443", authority)["server"] == "ok"
    assert asked
    assert all("Proxy-Authorization: Basic bWU6cEBzcw==" in line for line in asked)


@pytest.mark.parametrize("date", ["yesterday", ""])
def test_an_odd_date_is_no_date(authority, serve, monkeypatch, date):
    port = serve(authority.folder)
    monkeypatch.setattr(email.utils, "format_datetime", lambda *_, **__: date)
    assert codes(f"127.0.0.1:{port}", authority)["clock"] == "W_CLOCK"
