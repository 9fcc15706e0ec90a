"""The last head of every site's ledger: a ledger that was rolled back, copied or forked is refused.

A site proves with every private report that its ledger continues the head that the server saw last. It
tells bodies' digests only, so the server learns how many lines there are and nothing of what they say.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.artifact import write_text_atomic
from common.errors import LedgerError
from common.federation.messages import LedgerProof, TrainOrder
from common.privacy.ledger_format import GENESIS, chain_head


class LedgerHeads:
    """Heads by site, in a file that is read anew every time: a person may decide while a run goes on.

    Args:
        path: Where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self._path.is_file()

    def last(self, site: str) -> str:
        """Return the head that ``site`` must continue: every order to it says which."""
        return self._read().last(site)

    def latest(self) -> dict[str, str]:
        """Return the last head of every site."""
        known = self._read()
        return {site: known.last(site) for site in sorted(known.heads)}

    def trusted(self) -> list[str]:
        """Return the sites whose ledgers a person took as they were."""
        return sorted(set(self._read().trusted))

    def accept(self, site: str, proof: LedgerProof, order: TrainOrder) -> None:
        """Take the proof's head as the site's new one; a report that is sent again is no harm.

        Args:
            site: Which site.
            proof: From the head in the order, or an earlier one, over at least one line: a private report has
                its own reservation.
            order: What was asked. The first report of a round brings lines that were not there before.

        Raises:
            LedgerError: The proof does not lead to ``head``, passes by the last head seen, or brings nothing
                new. Once a known head has a second successor, nothing of the site is accepted any more.
        """
        known = self._read()
        if site in known.forked:
            raise LedgerError(f"the ledger of {site} was forked before", _ASK)
        passed = [chain_head(proof.start, proof.bodies[:length]) for length in range(len(proof.bodies) + 1)]
        if not proof.bodies or passed[-1] != proof.head or order.ledger_head not in passed:
            raise LedgerError(f"the ledger of {site} does not lead to the head it reports", _ASK)
        if known.last(site) not in passed:
            seen = (GENESIS, *known.heads.get(site, []))
            if proof.start in seen and proof.head not in seen:
                known.forked.append(site)
                self._write(known)
            raise LedgerError(
                f"the ledger of {site} does not continue the last head seen: rolled back, copied or forked",
                _ASK,
            )
        new = passed[passed.index(known.last(site)) + 1 :]
        about = f"{order.run}/{order.stage.value}/{order.round_index}"
        if not new and about not in known.counted.get(site, []):
            raise LedgerError(f"the ledger of {site} has no new line: the round was not paid for", _ASK)
        known.heads.setdefault(site, [GENESIS]).extend(new)
        known.counted.setdefault(site, []).append(about)
        self._write(known)

    def start_again(self, site: str) -> None:
        """Forget what is known of ``site``: its next proof opens a new record.

        For a person who has asked the site, and knows that the ledger it goes on with is the whole one.
        """
        known = self._read()
        known.heads.pop(site, None)
        known.forked[:] = [name for name in known.forked if name != site]
        known.trusted.append(site)
        self._write(known)

    def _read(self) -> "_Known":
        content = json.loads(self._path.read_text(encoding="utf-8")) if self.exists else {}
        return _Known(**content)

    def _write(self, known: "_Known") -> None:
        write_text_atomic(self._path, json.dumps(asdict(known), indent=2, sort_keys=True))


@dataclass
class _Known:
    """The file's content.

    Attributes:
        heads: All heads of a site's ledger that were seen, the last one last.
        counted: Rounds that a report of the site was accepted for.
        forked: Sites of which nothing is accepted.
        trusted: Sites whose ledger a person took as it was.
    """

    heads: dict[str, list[str]] = field(default_factory=dict)
    counted: dict[str, list[str]] = field(default_factory=dict)
    forked: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)

    def last(self, site: str) -> str:
        return self.heads.get(site, [GENESIS])[-1]


_ASK = (
    "ask the site which of its ledgers is whole; its reports are refused until a person has decided "
    "(fedvox study trust-ledger)"
)
