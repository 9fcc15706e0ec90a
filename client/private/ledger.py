"""The site's privacy ledger: one file for all patients, studies and coordinators.

An order is paid for before a patient is read: RESERVE is on the disk (fsync) when `reserve` returns, and
no crash takes it back. The finished reply is stored, then COMMIT is written, then the reply may leave.
The same order later gets the stored bytes and costs nothing; anything computed again costs again.

    ledger.jsonl    one line per entry, chained (common/privacy/ledger_format.py)
    heads.jsonl     the head after each line, written second: a ledger.jsonl that lost lines is noticed
    replies/        one file per committed order
    key             of the fingerprints of patient sets; known to nobody else
    lock            held while reading and writing; one process at a time
    order           held while an order is done; one at a time
"""

import fcntl
import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from client.private.budget import Budget, BudgetCheck
from client.private.ledger_files import (
    KEY,
    MEND,
    REPLIES,
    LedgerFiles,
    head_of,
    make_ledger_folder,
    refuse_missing,
)
from common.artifact import sha256_of_file, write_bytes_atomic
from common.errors import BudgetError, LedgerError
from common.federation.messages import LedgerProof
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import (
    GENESIS,
    Commit,
    LedgerLine,
    OrderKey,
    Reserve,
    next_line,
    spent_events,
)


class Ledger:
    """Reads and appends the ledger in a folder.

    Args:
        folder: The site's ledger folder, which `create` made.

    Raises:
        LedgerError: There is no ledger, its chain is broken, or it has lost lines.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._check = BudgetCheck()
        self._files = LedgerFiles(folder)
        with self._locked():
            self._files.refuse_unpaid_replies()

    @classmethod
    def create(cls, folder: Path) -> "Ledger":
        """Return a new, empty ledger; made once in a site's life, on purpose: it is a fresh budget.

        Made whole by its last step, and readable for its owner alone. A folder in which an earlier call was
        killed counts as empty.

        Raises:
            LedgerError: There is one already.
            ArtifactError: The folder cannot be made.
        """
        make_ledger_folder(folder)
        return cls(folder)

    @staticmethod
    def is_whole(folder: Path) -> bool:
        """Whether `create` came to its end there."""
        return (folder / REPLIES).is_dir()

    def entries(self) -> list[Reserve | Commit]:
        """Return every entry in order."""
        with self._locked():
            return [line.entry for line in self._files.lines()]

    def spent(self, delta: float) -> float:
        """Return the joint epsilon of everything reserved."""
        return epsilon(spent_events(self.entries()), delta)

    @property
    def head(self) -> str:
        """The chain's head."""
        with self._locked():
            return head_of(self._files.lines())

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
            lines = self._files.lines()
        heads = [GENESIS, *(line.head for line in lines)]
        if head not in heads:
            raise LedgerError("the ledger does not hold the coordinator's last head", MEND)
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
        listed = json.dumps(sorted(set(patients))).encode()
        return hmac.new(self._files.content(KEY), listed, hashlib.sha256).hexdigest()

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
            lines = self._files.lines()
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
            self._files.append(next_line(head_of(lines), entry))

    def commit(self, order: OrderKey, reply: bytes) -> None:
        """Store the reply of a reserved order, then say so; only then may it leave.

        Raises:
            LedgerError: The order was not reserved, or is answered already.
            ArtifactError: The disk is full; the reply must not leave.
        """
        with self._locked():
            lines = self._files.lines()
            if not any(isinstance(line.entry, Reserve) and line.entry.order == order for line in lines):
                raise LedgerError("a reply to an order that was not paid for", "reserve it first")
            if _committed(lines, order) is not None:
                raise LedgerError("the order is answered already", "send the stored reply")
            path = self._reply_path(order)
            write_bytes_atomic(path, reply)
            entry = Commit(order=order, reply=sha256_of_file(path), time=datetime.now(UTC))
            self._files.append(next_line(head_of(lines), entry))

    def stored_reply(self, order: OrderKey) -> bytes | None:
        """Return the reply that the order got before, or None.

        Raises:
            LedgerError: The stored reply was altered.
        """
        with self._locked():
            found = _committed(self._files.lines(), order)
        if found is None:
            return None
        path = self._reply_path(order)
        if not path.is_file() or sha256_of_file(path) != found.reply:
            raise LedgerError("a stored reply is missing or was altered", MEND)
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
        """Take a head that a coordinator has countersigned.

        Raises:
            LedgerError: It is not in the chain: the ledger was rolled back, or it is another one.
        """
        with self._locked():
            refuse_missing([head], self._files.lines())

    @contextmanager
    def one_order_at_a_time(self) -> Iterator[None]:
        """Wait until no other process or thread does an order, and keep them waiting for the block.

        So the same order that comes twice is computed once, and the second gets the first one's reply.
        """
        with (self.folder / "order").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _reply_path(self, order: OrderKey) -> Path:
        return self.folder / REPLIES / order.digest


def _rounds_of(entry: Reserve, entries: Sequence[Reserve | Commit]) -> int:
    """Return how many rounds of the same study and stage are paid for."""
    paid = [other for other in entries if isinstance(other, Reserve)]
    about = (entry.order.study, entry.order.stage)
    return sum((p.order.study, p.order.stage) == about for p in paid)


def _committed(lines: list[LedgerLine], order: OrderKey) -> Commit | None:
    found = [line.entry for line in lines if isinstance(line.entry, Commit) and line.entry.order == order]
    return found[-1] if found else None
