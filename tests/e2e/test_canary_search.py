"""The search for canaries finds them in every form, wherever they stand."""

import base64
import gzip
import socket
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.canaries import leaks, leaks_in
from tests.e2e.relays import socket_relay

WORD = "zebrafinch-7341"
FORMS = {
    "utf-8": str.encode,
    "utf-16 little": lambda text: text.encode("utf-16-le"),
    "utf-16 big": lambda text: text.encode("utf-16-be"),
    "hexadecimal": lambda text: text.encode().hex().encode(),
    "HEXADECIMAL": lambda text: text.encode().hex().upper().encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()),
    "gzip": lambda text: gzip.compress(text.encode()),
    "zlib": lambda text: zlib.compress(text.encode(), 9),
}


@pytest.mark.parametrize("form", FORMS)
@given(before=st.text(max_size=7), after=st.text(max_size=7), around=st.binary(max_size=9))
def test_a_planted_leak_is_found_in_any_form_at_any_place(form, before, after, around):
    content = around + FORMS[form](before + WORD + after) + around
    assert leaks(content, [WORD, "absent-word"]) == {WORD}


@pytest.mark.parametrize("form", FORMS)
def test_half_a_word_is_none(form):
    assert leaks(FORMS[form](f"here is {WORD[:8]} and no more"), [WORD]) == set()


def test_files_are_named(tmp_path):
    (tmp_path / "clean").write_bytes(b"nothing")
    (tmp_path / "leaky").write_bytes(b"\0" + WORD.encode())
    assert leaks_in(tmp_path.iterdir(), [WORD]) == {tmp_path / "leaky": {WORD}}


def test_what_a_relay_writes_down_is_torn_by_nobody_who_speaks_meanwhile(tmp_path):
    """A word in two pieces, and between them another connection's, and the answer to the first."""
    behind, front = tmp_path / "behind", tmp_path / "front"
    with socket.socket(socket.AF_UNIX) as listen:
        listen.bind(str(behind))
        listen.listen()
        relay = socket_relay(front, behind, tmp_path / "record")
        threading.Thread(target=relay.serve, daemon=True).start()
        pairs = []
        for _ in range(2):
            near = socket.socket(socket.AF_UNIX)
            near.connect(str(front))
            pairs.append((near, listen.accept()[0]))
        (near, far), (other, far_other) = pairs
        for source, sink, content in (
            (near, far, WORD[:8]),
            (far, near, "what?"),
            (other, far_other, "something else"),
            (near, far, WORD[8:]),
        ):
            source.sendall(content.encode())
            assert sink.recv(100) == content.encode()
        for end in (near, far, other, far_other):
            end.close()
    found = leaks_in((tmp_path / "record").iterdir(), [WORD])
    assert list(found.values()) == [{WORD}]
