"""Processes are started again when they end, and end with whoever keeps them."""

import signal
import sys
import time
from pathlib import Path

import pytest

from deploy import supervisor
from deploy.processes import Process
from deploy.supervisor import keep_running


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    monkeypatch.setattr(supervisor, "RESTART_S", 0.05)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def writes(path, then):
    """A process that notes its number and then does something."""
    code = f"import os, time; open({str(path)!r}, 'a').write(f'{{os.getpid()}}\\n'); {then}"
    return Process((sys.executable, "-c", code), {})


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


class Enough(Exception):
    """What stops the loop in these tests."""


def test_what_ends_is_started_again_and_said(tmp_path):
    said, path = [], tmp_path / "numbers"

    def look():
        if path.is_file() and len(path.read_text().split()) >= 2:
            raise Enough

    with pytest.raises(Enough):
        keep_running({"short": writes(path, "raise SystemExit(3)")}, said.append, look)
    assert said[0] == "short ended with 3; it is started again"


def test_an_error_of_whoever_looks_leaves_no_process_behind(tmp_path):
    path = tmp_path / "numbers"

    def look():
        if path.is_file() and path.read_text().strip():
            raise Enough

    with pytest.raises(Enough):
        keep_running({"long": writes(path, "time.sleep(60)")}, print, look)
    number = int(path.read_text())
    give_up = time.monotonic() + 5
    while is_alive(number):
        assert time.monotonic() < give_up
        time.sleep(0.01)
