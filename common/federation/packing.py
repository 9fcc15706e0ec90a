"""Orders and reports as packets, and back: the only place where tensors become bytes.

safetensors, never pickle: reading cannot run code.
"""

import hashlib
import math
from collections.abc import Callable, Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from common.errors import WireError
from common.federation.headers import (
    FailureHeader,
    LedgerLines,
    OrderHeader,
    ReportHeader,
)
from common.federation.messages import FailureReport, LedgerProof, Report, TrainOrder, TrainReport
from common.federation.packet import FROZEN, PARAMETERS, Packet, describe, of_kind
from common.release import release

Encode = Callable[[Mapping[str, Tensor]], bytes]
Decode = Callable[[bytes], Mapping[str, Tensor]]


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors in safetensors form; equal names, shapes and dtypes give equally many bytes."""
    content: bytes = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    return content


def tensors_from_bytes(content: bytes) -> dict[str, Tensor]:
    """Return tensors in safetensors form, in name order.

    Raises:
        WireError: ``content`` holds no tensors.
    """
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WireError(f"a section holds no tensors: {error}", "ask for it again") from None
    return {name: tensors[name] for name in sorted(tensors)}


class EncodedOnce:
    """Makes bytes of tensors once, however many orders of a round carry the very same ones."""

    def __init__(self) -> None:
        self._made: list[tuple[Mapping[str, Tensor], bytes]] = []

    def __call__(self, tensors: Mapping[str, Tensor]) -> bytes:
        """Return ``tensors`` in safetensors form."""
        for known, content in self._made:
            if known is tensors:
                return content
        self._made.append((tensors, tensors_to_bytes(tensors)))
        return self._made[-1][1]


def order_to_packet(order: TrainOrder, deadline_s: float, encode: Encode = tensors_to_bytes) -> Packet:
    """Return ``order`` as an unsealed packet.

    Args:
        order: The order.
        deadline_s: Seconds from its receipt until nobody waits for it any more.
        encode: Makes bytes of tensors; `EncodedOnce` for many orders of one round.
    """
    sections = {PARAMETERS: encode(order.parameters)}
    if order.frozen:
        sections[FROZEN] = encode(order.frozen)
    described = {name: describe(content) for name, content in sections.items()}
    header = OrderHeader(
        study_digest=order.study_digest,
        site=order.site,
        stage=order.stage,
        round_index=order.round_index,
        attempt=order.attempt,
        run=order.run,
        manifest=manifest_of(order.parameters),
        frozen_digest=order.frozen_digest,
        parameters=described[PARAMETERS],
        frozen=described.get(FROZEN),
        ledger_head=order.ledger_head,
        deadline_s=deadline_s,
    )
    return Packet.of(header, sections)


def order_from_packet(packet: Packet) -> TrainOrder:
    """Return the order in ``packet``.

    Raises:
        WireError: It holds something else.
    """
    header = packet.read_as(OrderHeader)
    parameters = tensors_from_bytes(packet.sections[PARAMETERS])
    if manifest_of(parameters) != header.manifest:
        raise WireError("an order's tensors are not those of its manifest", "ask for it again")
    return TrainOrder(
        study_digest=header.study_digest,
        site=header.site,
        stage=header.stage,
        round_index=header.round_index,
        attempt=header.attempt,
        parameters=parameters,
        frozen_digest=header.frozen_digest,
        frozen=tensors_from_bytes(packet.sections[FROZEN]) if FROZEN in packet.sections else {},
        run=header.run,
        ledger_head=header.ledger_head,
    )


def report_to_packet(report: Report, order_id: str) -> Packet:
    """Return ``report`` as an unsealed packet; a metric that is no number is left out.

    Args:
        report: The report.
        order_id: Which order it answers; empty where that is not known.
    """
    if isinstance(report, FailureReport):
        return Packet.of(FailureHeader(order_id=order_id, site=report.site, code=report.code))
    parameters = tensors_to_bytes(report.parameters)
    header = ReportHeader(
        order_id=order_id,
        study_digest=report.study_digest,
        site=report.site,
        stage=report.stage,
        round_index=report.round_index,
        steps=report.steps,
        seconds=report.seconds,
        metrics={name: value for name, value in report.metrics.items() if math.isfinite(value)},
        ledger=_lines_of(report.ledger),
        agent_version=release(),
        parameters=describe(parameters),
    )
    return Packet.of(header, {PARAMETERS: parameters})


def report_from_packet(packet: Packet, decode: Decode = tensors_from_bytes) -> Report:
    """Return the report in ``packet``.

    Args:
        packet: The packet.
        decode: Makes tensors of bytes.

    Raises:
        WireError: It holds something else.
    """
    header = packet.read()
    if isinstance(header, FailureHeader):
        return FailureReport(site=header.site, code=header.code)
    header = of_kind(header, ReportHeader)
    return TrainReport(
        study_digest=header.study_digest,
        site=header.site,
        stage=header.stage,
        round_index=header.round_index,
        parameters=decode(packet.sections[PARAMETERS]),
        steps=header.steps,
        seconds=header.seconds,
        metrics=header.metrics,
        ledger=None if header.ledger is None else LedgerProof(**header.ledger.model_dump()),
    )


def manifest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over name, shape and dtype of every tensor, in name order."""
    lines = [f"{name}|{tuple(tensors[name].shape)}|{tensors[name].dtype}\n" for name in sorted(tensors)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _lines_of(proof: LedgerProof | None) -> LedgerLines | None:
    if proof is None:
        return None
    return LedgerLines(start=proof.start, bodies=proof.bodies, head=proof.head)
