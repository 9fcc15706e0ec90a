"""The files of a ledger: lines that are chained, and a second record of every head there was.

A ledger.jsonl that is put back from before, or loses lines while somebody reads it, lacks a head that
heads.jsonl has, or the reservation of a reply that is stored. What cannot be noticed from inside is a whole
folder that is put back from before: coordinators notice that, each for its own run.
"""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from client.private.line_file import append_line, whole_content
from common.artifact import OWNER_ONLY, PRIVATE_FILE, flush_folder, write_bytes_atomic
from common.errors import ArtifactError, LedgerError
from common.privacy.ledger_format import GENESIS, LedgerLine, chain_head

KEY, LINES, HEADS, REPLIES = "key", "ledger.jsonl", "heads.jsonl", "replies"
MEND = (
    "do not mend it by hand, and put no older copy in its place: that has forgotten what was spent since; "
    "ask the data protection officer"
)
_KEY_BYTES = 32


def make_ledger_folder(folder: Path) -> None:
    """Make an empty ledger; its last step makes it whole.

    Raises:
        LedgerError: There is one already.
        ArtifactError: The folder cannot be made.
    """
    try:
        folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        begun = tuple(start for name in (KEY, LINES, HEADS) for start in (name, f".{name}."))
        if any(not path.name.startswith(begun) or _holds_lines(path) for path in folder.iterdir()):
            raise LedgerError(f"{folder} is not empty", "use the ledger that is there")
        folder.chmod(OWNER_ONLY)  # it may have been there, empty
        write_bytes_atomic(folder / KEY, os.urandom(_KEY_BYTES), mode=PRIVATE_FILE)
        for name in (LINES, HEADS):
            write_bytes_atomic(folder / name, b"", mode=PRIVATE_FILE)
        (folder / REPLIES).mkdir(mode=OWNER_ONLY)
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be made: {error.strerror}", "let the site's user own the folder"
        ) from None


class LedgerFiles:
    """Reads and appends; who calls it holds the ledger's lock.

    Args:
        folder: The site's ledger folder.

    Raises:
        LedgerError: There is no ledger.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: tuple[bytes, list[LedgerLine]] = (b"", [])
        if not (folder / REPLIES).is_dir():
            raise LedgerError(
                f"{folder} holds no privacy ledger",
                "mount the folder, or create a ledger if this site never had one",
            )
        for changed in (folder / REPLIES, folder, folder.parent):
            flush_folder(changed)  # what an earlier process made and did not live to flush

    def lines(self) -> list[LedgerLine]:
        """Return the chain, checked from its first line, with every head in it that there was.

        What this process has checked before is not parsed again while its bytes are the same.
        """
        content = self.content(LINES)
        checked, lines = self._read
        if not content.startswith(checked):
            raise LedgerError("lines of the ledger were changed or taken out while it was in use", MEND)
        lines = list(lines)
        for number, written in enumerate(content[len(checked) :].splitlines(), start=len(lines) + 1):
            try:
                line = LedgerLine.model_validate_json(written)
            except ValidationError:
                raise LedgerError(f"line {number} of the ledger is not readable", MEND) from None
            if line.head != chain_head(head_of(lines), [line.body]):
                raise LedgerError(f"line {number} of the ledger does not follow from the one before", MEND)
            lines.append(line)
        refuse_missing(self._noted_heads(), lines)
        self._read = (content, lines)
        return lines

    def append(self, line: LedgerLine) -> None:
        """Put a line on the disk, and then the head that the chain has with it."""
        append_line(self.folder / LINES, line.to_json())
        append_line(self.folder / HEADS, json.dumps({"head": line.head}))

    def refuse_unpaid_replies(self) -> None:
        """Return if every stored reply has its reservation, which was written before it.

        Raises:
            LedgerError: One has none.
        """
        paid = {line.entry.order.digest for line in self.lines()}
        stored = {path.name for path in (self.folder / REPLIES).iterdir() if not path.name.startswith(".")}
        if not stored <= paid:
            raise LedgerError(
                "the ledger has lost lines: a reply is stored that nothing in it paid for", MEND
            )

    def _noted_heads(self) -> list[str]:
        """Return the heads that there were."""
        try:
            return [str(json.loads(text)["head"]) for text in self.content(HEADS).splitlines()]
        except (ValueError, KeyError, TypeError):
            raise LedgerError("the heads of the ledger are not readable", MEND) from None

    def content(self, name: str) -> bytes:
        """Return one of the files.

        Raises:
            LedgerError: It is missing.
        """
        path = self.folder / name
        if not path.is_file():
            raise LedgerError(f"{path} is missing", MEND)
        return path.read_bytes() if name == KEY else whole_content(path)


def head_of(lines: list[LedgerLine]) -> str:
    """Return the head of a chain."""
    return lines[-1].head if lines else GENESIS


def refuse_missing(heads: list[str], lines: list[LedgerLine]) -> None:
    """Raise LedgerError if one of the heads is not in the chain."""
    known = {GENESIS, *(line.head for line in lines)}
    if not known.issuperset(heads):
        raise LedgerError("the ledger has lost lines: a head that it had is missing", MEND)


def _holds_lines(path: Path) -> bool:
    return path.name in {LINES, HEADS} and path.stat().st_size > 0
