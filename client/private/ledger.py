"""The site's privacy ledger: one file for all patients, studies and coordinators.

An order is paid for before a patient is read: RESERVE is on the disk (fsync) when `reserve` returns, and
no crash takes it back. The finished reply is stored, then COMMIT is written, then the reply may leave.
The same order later gets the stored bytes and costs nothing; anything computed again costs again.

    ledger.jsonl    one line per entry, chained (common/privacy/ledger_format.py)
    heads.jsonl     heads that a coordinator has acknowledged
    replies/        one file per committed order
    key             of the fingerprints of patient sets; known to nobody else
    lock            held while reading and writing; one process at a time
    order           held while an order is done; one at a time
"""

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from client.private.budget import Budget, BudgetCheck
from client.private.line_file import append_line, whole_content
from common.artifact import OWNER_ONLY, flush_folder, sha256_of_file, write_bytes_atomic
from common.errors import ArtifactError, BudgetError, LedgerError
from common.federation.messages import LedgerProof
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import (
    GENESIS,
    Commit,
    LedgerLine,
    OrderKey,
    Reserve,
    chain_head,
    next_line,
    spent_events,
)

_MEND = "do not mend it by hand; restore the whole folder from before, or ask the data protection officer"

_KEY = "key"
_KEY_BYTES = 32


class Ledger:
    """Reads and appends the ledger in a folder.

    Args:
        folder: The site's ledger folder, which `create` made.

    Raises:
        LedgerError: There is no ledger, its chain is broken, or a head that was acknowledged is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._check = BudgetCheck()
        self._read: tuple[bytes, list[LedgerLine]] = (b"", [])
        if not (folder / "replies").is_dir():
            raise LedgerError(
                f"{folder} holds no privacy ledger",
                "mount the folder, or create a ledger if this site never had one",
            )
        for changed in (folder / "replies", folder, folder.parent):
            flush_folder(changed)  # what an earlier process made and did not live to flush
        with self._locked():
            self._lines()

    @classmethod
    def create(cls, folder: Path) -> "Ledger":
        """Return a new, empty ledger; made once in a site's life, on purpose: it is a fresh budget.

        Made whole by its last step, and readable for its owner alone. A folder in which an earlier call was
        killed counts as empty.

        Raises:
            LedgerError: There is one already.
            ArtifactError: The folder cannot be made.
        """
        try:
            folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            if any(not path.name.startswith((_KEY, f".{_KEY}.")) for path in folder.iterdir()):
                raise LedgerError(f"{folder} is not empty", "use the ledger that is there")
            folder.chmod(OWNER_ONLY)  # it may have been there, empty
            write_bytes_atomic(folder / _KEY, os.urandom(_KEY_BYTES), mode=0o600)
            (folder / "replies").mkdir(mode=OWNER_ONLY)
        except OSError as error:
            raise ArtifactError(
                f"{folder} cannot be made: {error.strerror}", "let the site's user own the folder"
            ) from None
        return cls(folder)

    def entries(self) -> list[Reserve | Commit]:
        """Return every entry in order."""
        with self._locked():
            return [line.entry for line in self._lines()]

    def spent(self, delta: float) -> float:
        """Return the joint epsilon of everything reserved."""
        return epsilon(spent_events(self.entries()), delta)

    @property
    def head(self) -> str:
        """The chain's head."""
        with self._locked():
            return _head(self._lines())

    def proof_from(self, head: str, order: OrderKey | None = None) -> LedgerProof:
        """Return that the chain continues ``head``.

        Args:
            head: A head that the coordinator saw.
            order: The order that is answered: the proof shows its reservation too, although the coordinator
                may have seen that before.

        Raises:
            LedgerError: ``head`` is not in the chain: the ledger was rolled back, or it is another one.
        """
        with self._locked():
            lines = self._lines()
        heads = [GENESIS, *(line.head for line in lines)]
        if head not in heads:
            raise LedgerError("the ledger does not hold the coordinator's last head", _MEND)
        start = heads.index(head)
        for index, line in enumerate(lines):
            if isinstance(line.entry, Reserve) and line.entry.order == order:
                start = min(heads.index(head), index)
        return LedgerProof(heads[start], tuple(line.body for line in lines[start:]), heads[-1])

    def fingerprint_of(self, patients: Sequence[str]) -> str:
        """Return a keyed fingerprint of a patient set, which nobody without the site's key can check.

        Raises:
            LedgerError: The key is missing.
        """
        path = self.folder / _KEY
        if not path.is_file():
            raise LedgerError(f"{path} is missing", _MEND)
        listed = json.dumps(sorted(set(patients))).encode()
        return hmac.new(path.read_bytes(), listed, hashlib.sha256).hexdigest()

    def reserve(self, entry: Reserve, budget: Budget, most_rounds: int) -> None:
        """Put ``entry`` on the disk if the budget allows it; only then may a patient be read.

        Args:
            entry: What is to be spent.
            budget: The site's cap.
            most_rounds: Rounds of this study and stage, lost ones too, that the study's promise pays for.

        Raises:
            BudgetError: The joint epsilon would pass the cap, or the study has had all its rounds; nothing
                was written.
            ArtifactError: The disk is full; nothing may be read.
        """
        with self._locked():
            lines = self._lines()
            entries = [line.entry for line in lines]
            left = most_rounds - _rounds_of(entry, entries)
            if left <= 0:
                raise BudgetError(
                    f"the study has had its {most_rounds} rounds, spare ones included",
                    "the stage ends with the last global model; more rounds are another study",
                )
            self._check.refuse_beyond(
                budget,
                events=spent_events([*entries, entry]),
                ahead=spent_events([*entries, *[entry] * left]),
            )
            self._append(next_line(_head(lines), entry))

    def commit(self, order: OrderKey, reply: bytes) -> None:
        """Store the reply of a reserved order, then say so; only then may it leave.

        Raises:
            LedgerError: The order was not reserved, or is answered already.
            ArtifactError: The disk is full; the reply must not leave.
        """
        with self._locked():
            lines = self._lines()
            if not any(isinstance(line.entry, Reserve) and line.entry.order == order for line in lines):
                raise LedgerError("a reply to an order that was not paid for", "reserve it first")
            if _committed(lines, order) is not None:
                raise LedgerError("the order is answered already", "send the stored reply")
            path = self._reply_path(order)
            write_bytes_atomic(path, reply)
            entry = Commit(order=order, reply=sha256_of_file(path), time=datetime.now(UTC))
            self._append(next_line(_head(lines), entry))

    def stored_reply(self, order: OrderKey) -> bytes | None:
        """Return the reply that the order got before, or None.

        Raises:
            LedgerError: The stored reply was altered.
        """
        with self._locked():
            found = _committed(self._lines(), order)
        if found is None:
            return None
        path = self._reply_path(order)
        if not path.is_file() or sha256_of_file(path) != found.reply:
            raise LedgerError("a stored reply is missing or was altered", _MEND)
        return path.read_bytes()

    def verify(self) -> int:
        """Return the number of entries after checking the chain and every stored reply.

        Raises:
            LedgerError: Something is missing or was altered.
        """
        entries = self.entries()
        for entry in entries:
            if isinstance(entry, Commit):
                self.stored_reply(entry.order)
        return len(entries)

    def acknowledge(self, head: str) -> None:
        """Remember a head that a coordinator has countersigned: from now on it must stay in the chain."""
        with self._locked():
            lines = self._lines()
            _refuse_missing([head], lines)
            heads = [GENESIS, *(line.head for line in lines)]
            furthest = max(map(heads.index, self._acknowledged()), default=0)
            if heads.index(head) > furthest:  # an older one says nothing new
                append_line(self.folder / "heads.jsonl", json.dumps({"head": head}))

    @contextmanager
    def one_order_at_a_time(self) -> Iterator[None]:
        """Wait until no other process or thread does an order, and keep them waiting for the block.

        So the same order that comes twice is computed once, and the second gets the first one's reply.
        """
        with (self.folder / "order").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _acknowledged(self) -> list[str]:
        """Return the heads that coordinators have countersigned."""
        written = whole_content(self.folder / "heads.jsonl").splitlines()
        return [str(json.loads(text)["head"]) for text in written]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lines(self) -> list[LedgerLine]:
        """Return the chain, checked from its first line, with every acknowledged head in it.

        What this process has checked before is not parsed again while its bytes are the same.
        """
        content = whole_content(self.folder / "ledger.jsonl")
        checked, lines = self._read
        if not content.startswith(checked):
            checked, lines = b"", []
        lines = list(lines)
        for number, written in enumerate(content[len(checked) :].splitlines(), start=len(lines) + 1):
            try:
                line = LedgerLine.model_validate_json(written)
            except ValidationError:
                raise LedgerError(f"line {number} of the ledger is not readable", _MEND) from None
            if line.head != chain_head(_head(lines), [line.body]):
                raise LedgerError(f"line {number} of the ledger does not follow from the one before", _MEND)
            lines.append(line)
        _refuse_missing(self._acknowledged(), lines)
        self._read = (content, lines)
        return lines

    def _append(self, line: LedgerLine) -> None:
        append_line(self.folder / "ledger.jsonl", line.to_json())

    def _reply_path(self, order: OrderKey) -> Path:
        return self.folder / "replies" / order.digest


def _refuse_missing(heads: list[str], lines: list[LedgerLine]) -> None:
    known = {GENESIS, *(line.head for line in lines)}
    if not known.issuperset(heads):
        raise LedgerError("a head that a coordinator acknowledged is missing from the ledger", _MEND)


def _rounds_of(entry: Reserve, entries: Sequence[Reserve | Commit]) -> int:
    """Return how many rounds of the same study and stage are paid for."""
    paid = [other for other in entries if isinstance(other, Reserve)]
    return sum(p.study == entry.study and p.order.stage == entry.order.stage for p in paid)


def _head(lines: list[LedgerLine]) -> str:
    return lines[-1].head if lines else GENESIS


def _committed(lines: list[LedgerLine], order: OrderKey) -> Commit | None:
    found = [line.entry for line in lines if isinstance(line.entry, Commit) and line.entry.order == order]
    return found[-1] if found else None
