"""The last head of every site's ledger: a ledger that was rolled back, copied or forked is refused.

A site proves with every private report that its ledger continues the head that the server saw last. It
tells bodies' digests only, so the server learns how many lines there are and nothing of what they say.
"""

import json
from pathlib import Path

from common.artifact import write_text_atomic
from common.errors import LedgerError
from common.federation.messages import LedgerProof
from common.privacy.ledger_format import GENESIS, chain_head


class LedgerHeads:
    """Heads by site, in a file.

    Args:
        path: Where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._heads: dict[str, list[str]] = known.get("heads", {})
        self._forked: list[str] = known.get("forked", [])

    def last(self, site: str) -> str:
        """Return the head that ``site`` must continue: every order to it says which."""
        return self._heads.get(site, [GENESIS])[-1]

    def accept(self, site: str, proof: LedgerProof) -> None:
        """Take the proof's head as the site's new one; a report sent twice, or late, is no harm.

        Args:
            site: Which site.
            proof: From a head that the server saw, over at least one line: a private report has its own
                reservation.

        Raises:
            LedgerError: The proof does not lead to ``head``, or passes by the last head seen. Once a known
                head has a second successor, nothing of the site is accepted any more.
        """
        if site in self._forked:
            raise LedgerError(f"the ledger of {site} was forked before", _ASK)
        start, bodies, head = proof.start, proof.bodies, proof.head
        passed = [chain_head(start, bodies[:length]) for length in range(len(bodies) + 1)]
        if not bodies or passed[-1] != head:
            raise LedgerError(f"the ledger of {site} does not lead to the head it reports", _ASK)
        if self.last(site) in passed:
            new = passed[passed.index(self.last(site)) + 1 :]
            self._heads.setdefault(site, [GENESIS]).extend(new)
            self._save()
        elif head not in self._heads.get(site, []):
            if start in (GENESIS, *self._heads.get(site, [])):
                self._forked.append(site)
                self._save()
            raise LedgerError(
                f"the ledger of {site} does not continue the last head seen: rolled back, copied or forked",
                _ASK,
            )

    def start_again(self, site: str) -> None:
        """Forget what is known of ``site``: its next proof opens a new record.

        For a person who has asked the site, and knows that the ledger it goes on with is the whole one.
        """
        self._heads.pop(site, None)
        self._forked = [name for name in self._forked if name != site]
        self._save()

    def _save(self) -> None:
        content = {"heads": self._heads, "forked": self._forked}
        write_text_atomic(self._path, json.dumps(content, indent=2, sort_keys=True))


_ASK = (
    "ask the site which of its ledgers is whole; its reports are refused until a person has decided "
    "(fedvox study trust-ledger)"
)
