"""What is said of tensors before anybody reads them: the signed headers of orders and answers.

    coordinator  ->  site    OrderHeader     do this, on the sections that travel with it
                             FollowUp        how far is it? (no seal: it asks for nothing that is kept back)
                             Cancellation    stop it
                             Question        who are you?
    site  ->  coordinator    ReportHeader    done; the update travels with it
                             FailureHeader   could not be done, by this code
                             ProgressHeader  not done yet
                             Introduction    this site, sealed for the one who asked

An order's identity is what it is about and nothing else: a coordinator that was restarted and asks for the
same again, perhaps with a newer acknowledgement, has made the same order. JSON; no field holds free text.
"""

import hashlib
import json
from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from common.errors import ErrorCode, WireError
from common.federation.config import SiteName
from common.federation.stage import Stage
from common.frozen import FrozenModel

PROTOCOL = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
Release = Annotated[str, Field(pattern=r"^[0-9a-z.+-]{1,32}$")]
Metric = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


class Section(FrozenModel):
    """Tensors in safetensors form.

    Attributes:
        sha256: Of its bytes.
        size: Their number.
    """

    sha256: Digest
    size: NonNegativeInt


class OrderHeader(FrozenModel):
    """One site's work for one round; see `TrainOrder`.

    Attributes:
        attempt: Of the round, from 1.
        manifest: SHA-256 over name, shape and dtype of the tensors to start from.
        parameters: The tensors to start from.
        frozen: What the stage uses and does not train, where the site may not hold it.
        deadline_s: Seconds from its receipt until nobody waits for it any more.
    """

    kind: Literal["order"] = "order"
    protocol: PositiveInt = PROTOCOL
    study_digest: Digest
    site: SiteName
    stage: Stage
    round_index: PositiveInt
    attempt: PositiveInt
    run: RunName
    manifest: Digest
    frozen_digest: Digest | Literal[""]
    parameters: Section
    frozen: Section | None
    ledger_head: Digest | Literal[""]
    deadline_s: PositiveFloat

    @property
    def order_id(self) -> str:
        """SHA-256 over what the order is about."""
        about = self.model_dump(mode="json", exclude={"frozen", "ledger_head", "deadline_s"})
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class FollowUp(FrozenModel):
    """Asks for what became of an order."""

    kind: Literal["follow-up"] = "follow-up"
    order_id: Digest


class Cancellation(FrozenModel):
    """Nobody wants an order any more."""

    kind: Literal["cancellation"] = "cancellation"
    order_id: Digest


class LedgerLines(FrozenModel):
    """See `LedgerProof`."""

    start: Digest
    bodies: tuple[Digest, ...]
    head: Digest


class ReportHeader(FrozenModel):
    """A site's result of one round; see `TrainReport`.

    Attributes:
        agent_version: Release of fedvox at the site.
        parameters: The trained tensors.
    """

    kind: Literal["report"] = "report"
    order_id: Digest
    study_digest: Digest
    site: SiteName
    stage: Stage
    round_index: PositiveInt
    steps: NonNegativeInt
    seconds: NonNegativeFloat
    metrics: dict[Metric, float]
    ledger: LedgerLines | None
    agent_version: Release
    parameters: Section


class FailureHeader(FrozenModel):
    """A site that could not do its order says which of the known reasons it was, and nothing else."""

    kind: Literal["failure"] = "failure"
    order_id: Digest | Literal[""]
    site: SiteName
    code: ErrorCode


class ProgressHeader(FrozenModel):
    """How far an order is: by steps, whose number is public."""

    kind: Literal["progress"] = "progress"
    order_id: Digest
    site: SiteName
    fraction: Annotated[float, Field(ge=0, le=1)]


class Question(FrozenModel):
    """Asks a node which site it is.

    Attributes:
        nonce: Drawn for this question: an introduction that was overheard before is none.
    """

    kind: Literal["question"] = "question"
    nonce: Digest


class Introduction(FrozenModel):
    """A site says its name."""

    kind: Literal["introduction"] = "introduction"
    nonce: Digest
    site: SiteName
    release: Release


Header = (
    OrderHeader
    | FollowUp
    | Cancellation
    | Question
    | ReportHeader
    | FailureHeader
    | ProgressHeader
    | Introduction
)
Kind = TypeVar("Kind", bound=Header)
LARGEST_HEADER = 1 << 20  # some thousands of ledger lines
_KINDS: dict[str, type[Header]] = {
    "order": OrderHeader,
    "follow-up": FollowUp,
    "cancellation": Cancellation,
    "question": Question,
    "introduction": Introduction,
    "report": ReportHeader,
    "failure": FailureHeader,
    "progress": ProgressHeader,
}


def header_to_bytes(header: Header) -> bytes:
    """Return the header as JSON, the same bytes for the same header."""
    return json.dumps(header.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def kind_of(content: bytes) -> str:
    """Return the kind that a header says it is of: what its seal must be for.

    Raises:
        WireError: It is of none.
    """
    try:
        if len(content) <= LARGEST_HEADER and (kind := json.loads(content)["kind"]) in _KINDS:
            return str(kind)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _no_header()


def header_from_bytes(content: bytes) -> Header:
    """Return the header in ``content``.

    Raises:
        WireError: A field is missing, unknown, or out of its range.
    """
    try:
        return _KINDS[kind_of(content)].model_validate_json(content)
    except ValidationError:
        raise _no_header() from None


def _no_header() -> WireError:
    return WireError("not a message of fedvox", "compare fedvox versions of server and site")
