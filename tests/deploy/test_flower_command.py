"""Which sites Flower's server is told to let in and out."""

import json

import pytest

from common.errors import RunError
from deploy.flower_command import NODES, FlowerCommand


class Site:
    def __init__(self, name):
        self.enrolment = type("Enrolment", (), {"node_key": f"key of {name}"})()


class Coordinator:
    """One whose sites a test names."""

    def __init__(self, folder, *names):
        self.folder = folder
        self.names = set(names)

    @property
    def sites(self):
        return {name: Site(name) for name in ("north", "south")}

    def keys(self):
        return dict.fromkeys(self.names)


class Server:
    """Flower's, as its command line shows it."""

    def __init__(self):
        self.known, self.gone, self.calls = {}, set(), []
        self.refuses = False

    def call(self, *words):
        self.calls.append(words[:2])
        if words[1] == "register":
            name = words[-1]
            if name in self.known:
                return {"success": False, "error-message": "[code: 23] Public key already in use"}
            self.known[name] = 100 + len(self.known)
            return {"success": True, "node-id": self.known[name]}
        if self.refuses:
            return {"success": False, "error-message": "no such node"}
        self.gone.add(int(words[2]))
        return {"success": True}


@pytest.fixture
def server():
    return Server()


def command(coordinator, server, monkeypatch):
    made = FlowerCommand(coordinator, 8000)
    monkeypatch.setattr(made, "_call", server.call)
    return made


def test_enrolled_sites_are_let_in_and_their_numbers_written_down(tmp_path, server, monkeypatch):
    command(Coordinator(tmp_path, "north", "south"), server, monkeypatch).admit_sites()
    assert server.known == {"north": 100, "south": 101} == json.loads((tmp_path / NODES).read_text())


def test_a_revoked_site_is_let_out_by_its_number_once(tmp_path, server, monkeypatch):
    coordinator = Coordinator(tmp_path, "north", "south")
    flower = command(coordinator, server, monkeypatch)
    flower.admit_sites()
    coordinator.names.discard("north")
    flower.admit_sites()
    flower.admit_sites()
    assert server.gone == {100}
    assert server.calls.count(("supernode", "unregister")) == 1
    assert json.loads((tmp_path / NODES).read_text()) == {"south": 101}


def test_a_server_with_a_new_database_is_told_of_everybody_again(tmp_path, server, monkeypatch):
    flower = command(Coordinator(tmp_path, "north"), server, monkeypatch)
    flower.admit_sites()
    server.known.clear()
    server.known["other"] = 1
    flower.admit_sites()
    assert json.loads((tmp_path / NODES).read_text()) == {"north": 101}


def test_a_refusal_is_named(tmp_path, server, monkeypatch):
    monkeypatch.setattr(server, "call", lambda *_: {"success": False, "error-message": "no curve"})
    with pytest.raises(RunError, match="north is not taken: no curve"):
        command(Coordinator(tmp_path, "north"), server, monkeypatch).admit_sites()


def test_a_server_that_is_not_there_yet_is_called_so(tmp_path, server, monkeypatch):
    said = "Connection to the SuperLink is unavailable. Please check your network connection"
    monkeypatch.setattr(server, "call", lambda *_: {"success": False, "error-message": said})
    with pytest.raises(RunError, match="server does not answer"):
        command(Coordinator(tmp_path, "north"), server, monkeypatch).admit_sites()


def test_a_site_that_is_not_let_go_is_not_forgotten(tmp_path, server, monkeypatch):
    coordinator = Coordinator(tmp_path, "north", "south")
    flower = command(coordinator, server, monkeypatch)
    flower.admit_sites()
    coordinator.names.discard("north")
    server.refuses = True
    with pytest.raises(RunError, match="north is not let go: no such node"):
        flower.admit_sites()
    server.refuses = False
    flower.admit_sites()
    assert server.gone == {100}


def test_a_number_that_nobody_wrote_down_is_told(tmp_path, server, monkeypatch):
    coordinator = Coordinator(tmp_path, "north")
    server.known["north"] = 7  # registered, and then somebody was killed
    flower = command(coordinator, server, monkeypatch)
    flower.admit_sites()
    coordinator.names.clear()
    with pytest.raises(RunError, match="nobody wrote down the number of north"):
        flower.admit_sites()
