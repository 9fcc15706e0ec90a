"""Words that must not leave a site, looked for in every form that a program might give them.

UTF-8, UTF-16, hexadecimal, base64 at each of its three places in a triple, percent-encoded, and each of these
inside gzip or zlib streams.
"""

import base64
import re
import urllib.parse
import zlib
from collections.abc import Iterable
from pathlib import Path

_STREAM_STARTS = (b"\x1f\x8b\x08", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_LARGEST_STREAM = 64 << 20


def forms(word: str) -> set[bytes]:
    """Return the bytes to look for."""
    plain = word.encode()
    found = {plain, word.encode("utf-16-le"), word.encode("utf-16-be"), urllib.parse.quote(word).encode()}
    found |= {plain.hex().encode(), plain.hex().upper().encode()}
    for shift in range(3):
        # The characters of a triple that the word does not fill depend on its neighbours and are left out.
        whole = base64.b64encode(b"\0" * shift + plain)
        first = 0 if shift == 0 else 4
        last = len(whole) - (4 if whole.endswith(b"=") else 0)
        found |= {whole[first:last], whole[first:last].replace(b"+", b"-").replace(b"/", b"_")}
    return found


def leaks(content: bytes, words: Iterable[str]) -> set[str]:
    """Return the words that are in ``content`` in any form."""
    texts = [content, *_unpacked(content)]
    return {word for word in words if any(form in text for form in forms(word) for text in texts)}


def leaks_in(paths: Iterable[Path], words: Iterable[str]) -> dict[Path, set[str]]:
    """Return the words that are in files, by file."""
    wanted = list(words)
    found = {path: leaks(path.read_bytes(), wanted) for path in paths if path.is_file()}
    return {path: which for path, which in found.items() if which}


def _unpacked(content: bytes) -> list[bytes]:
    """Return what the compressed streams in ``content`` hold."""
    texts = []
    for start in _STREAM_STARTS:
        for match in re.finditer(re.escape(start), content):
            bits = 31 if start.startswith(b"\x1f") else 15
            try:
                text = zlib.decompressobj(bits).decompress(content[match.start() :], _LARGEST_STREAM)
            except zlib.error:
                continue
            if len(text) > 8:
                texts.append(text)
    return texts
