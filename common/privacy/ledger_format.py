"""The lines of a site's privacy ledger and the chain that makes a missing one visible.

    body_i = SHA-256 of line i's canonical JSON          head_i = SHA-256(head_(i-1) body_i)

A head stands for every line before it. Whoever knows an old head can be shown, by bodies alone, that a
new one continues it: that tells the server that nothing was taken back, and nothing else.

>>> chain_head(GENESIS, []) == GENESIS
True
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from common.frozen import FrozenModel
from common.privacy.events import SampledGaussian

GENESIS = "0" * 64
"""The head of an empty ledger."""

_SALT_BYTES = 16

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Salt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def _new_salt() -> str:
    return secrets.token_hex(_SALT_BYTES)


class OrderKey(FrozenModel):
    """What makes two orders the same: the same round of the same run of a study from the same model.

    Attributes:
        study: SHA-256 of the study.
        run: Identifier of the run.
        stage: Stage of the study.
        round_index: Round of the stage, from 1.
        parent: SHA-256 of the model that the round starts from.
    """

    study: Digest
    run: Name
    stage: Name
    round_index: Annotated[int, Field(ge=1, le=1_000_000)]
    parent: Digest

    @property
    def digest(self) -> str:
        """SHA-256 of the key: the name under which its reply is stored."""
        return _sha256(_canonical(self))


class Reserve(FrozenModel):
    """Written before the first patient is read: this much may be spent, whatever happens next.

    Attributes:
        version: Of this format: a release that does not know it reads nothing, and spends nothing.
        event: Mechanism as the accountants see it; all steps of the order.
        clip_norm: C.
        unit: Whose presence is protected.
        relation: How neighbouring datasets differ.
        order: The order it pays for.
        code: SHA-256 of the code that runs.
        patients: Keyed fingerprint of the patient set; only the site can compute it.
        mark: ``RESEARCH`` for runs whose epsilon is per run and covers no selection.
        time: When, by the site's clock.
        salt: Keeps the line's digest, which a coordinator sees, from telling what it knows all else of.
    """

    kind: Literal["RESERVE"] = "RESERVE"
    version: Literal[1] = 1
    event: SampledGaussian
    clip_norm: PositiveFloat
    unit: Literal["patient"] = "patient"
    relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    order: OrderKey
    code: Digest
    patients: Digest
    mark: Literal["", "RESEARCH"] = ""
    time: datetime
    salt: Salt = Field(default_factory=_new_salt)


class Commit(FrozenModel):
    """Written when the reply is stored: the order is answered, and will be answered alike again.

    Attributes:
        version: As in `Reserve`.
        order: The order.
        reply: SHA-256 of the stored reply.
        time: When.
        salt: As in `Reserve`; without it, whoever has the reply could find the time by trying all.
    """

    kind: Literal["COMMIT"] = "COMMIT"
    version: Literal[1] = 1
    order: OrderKey
    reply: Digest
    time: datetime
    salt: Salt = Field(default_factory=_new_salt)


LedgerEntry = Annotated[Reserve | Commit, Field(discriminator="kind")]


class LedgerLine(FrozenModel):
    """One line: an entry and the head that the chain has with it.

    Attributes:
        entry: What happened.
        head: The head after it.
    """

    entry: LedgerEntry
    head: Digest

    @property
    def body(self) -> str:
        """SHA-256 of the entry's canonical JSON."""
        return _sha256(_canonical(self.entry))

    def to_json(self) -> str:
        """Return the line as it stands in the file, without the line end."""
        return _canonical(self)


def next_line(previous_head: str, entry: Reserve | Commit) -> LedgerLine:
    """Return ``entry`` as the line after the one with ``previous_head``."""
    return LedgerLine(entry=entry, head=chain_head(previous_head, [_sha256(_canonical(entry))]))


def chain_head(head: str, bodies: Sequence[str]) -> str:
    """Return the head after lines with these bodies."""
    for body in bodies:
        head = _sha256(head + body)
    return head


def spent_events(entries: Sequence[Reserve | Commit]) -> list[SampledGaussian]:
    """Return what all reservations cost, committed or not, equal mechanisms joined."""
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        if isinstance(entry, Reserve):
            mechanism = (entry.event.sampling_rate, entry.event.noise_multiplier)
            steps[mechanism] = steps.get(mechanism, 0) + entry.event.steps
    return [
        SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=total)
        for (rate, noise), total in steps.items()
    ]


def _canonical(model: FrozenModel) -> str:
    return json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
