"""Orders and reports as Flower records, and back: the only place that knows both forms.

A record dictionary holds ``parameters`` and ``frozen`` (ArrayRecord), ``header`` (ConfigRecord: the
scalar fields) and, for a report, ``metrics`` (MetricRecord). bfloat16 has no NumPy form and is
refused here rather than inside Flower.
"""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from common.errors import ErrorCode, WireError
from common.federation.messages import (
    FailureReport,
    LedgerProof,
    Report,
    Stage,
    TrainOrder,
    TrainReport,
)


def order_to_records(order: TrainOrder) -> RecordDict:
    """Return ``order`` as Flower records."""
    return RecordDict(
        {
            "parameters": _to_arrays(order.parameters),
            "frozen": _to_arrays(order.frozen),
            "header": ConfigRecord(
                {
                    "study_digest": order.study_digest,
                    "site": order.site,
                    "stage": order.stage.value,
                    "round_index": order.round_index,
                    "frozen_digest": order.frozen_digest,
                    "run": order.run,
                    "ledger_head": order.ledger_head,
                }
            ),
        }
    )


def order_from_records(records: RecordDict) -> TrainOrder:
    """Return the order in ``records``.

    Raises:
        WireError: A field is missing or of the wrong kind.
    """
    try:
        header = records.config_records["header"]
        return TrainOrder(
            study_digest=str(header["study_digest"]),
            site=str(header["site"]),
            stage=Stage(header["stage"]),
            round_index=_integer(header["round_index"]),
            parameters=_from_arrays(records.array_records["parameters"]),
            frozen_digest=str(header["frozen_digest"]),
            frozen=_from_arrays(records.array_records["frozen"]),
            run=str(header["run"]),
            ledger_head=str(header["ledger_head"]),
        )
    except Exception as error:  # arrays that are not arrays fail in ways that are not ours to list
        raise WireError(f"not a train order: {error}", "compare fedvox versions of server and site") from None


def report_to_records(report: Report) -> RecordDict:
    """Return ``report`` as Flower records."""
    if isinstance(report, FailureReport):
        return RecordDict({"header": ConfigRecord({"site": report.site, "code": report.code.value})})
    return RecordDict(
        {
            "parameters": _to_arrays(report.parameters),
            "header": ConfigRecord(
                {
                    "study_digest": report.study_digest,
                    "site": report.site,
                    "stage": report.stage.value,
                    "round_index": report.round_index,
                    "steps": report.steps,
                    "seconds": report.seconds,
                    **_ledger_fields(report.ledger),
                }
            ),
            "metrics": MetricRecord({name: float(value) for name, value in report.metrics.items()}),
        }
    )


def report_from_records(records: RecordDict) -> Report:
    """Return the report in ``records``.

    Raises:
        WireError: A field is missing or of the wrong kind.
    """
    try:
        header = records.config_records["header"]
        if "code" in header:
            return FailureReport(site=str(header["site"]), code=ErrorCode(header["code"]))
        return TrainReport(
            study_digest=str(header["study_digest"]),
            site=str(header["site"]),
            stage=Stage(header["stage"]),
            round_index=_integer(header["round_index"]),
            parameters=_from_arrays(records.array_records["parameters"]),
            steps=_integer(header["steps"]),
            seconds=_number(header["seconds"]),
            metrics={name: _number(value) for name, value in records.metric_records["metrics"].items()},
            ledger=_ledger_proof(header),
        )
    except Exception as error:  # arrays that are not arrays fail in ways that are not ours to list
        raise WireError(
            f"not a train report: {error}", "compare fedvox versions of server and site"
        ) from None


def num_bytes(records: RecordDict) -> int:
    """Return the bytes of all arrays in ``records``, which is what travels but for a small header."""
    return sum(array.numpy().nbytes for record in records.array_records.values() for array in record.values())


def _ledger_fields(proof: LedgerProof | None) -> dict[str, str | list[str]]:
    if proof is None:
        return {}
    return {"ledger_start": proof.start, "ledger_bodies": list(proof.bodies), "ledger_head": proof.head}


def _ledger_proof(header: ConfigRecord) -> LedgerProof | None:
    if "ledger_head" not in header:
        return None
    bodies = header["ledger_bodies"]
    if not isinstance(bodies, list):
        raise TypeError("the ledger's proof is no list")
    return LedgerProof(str(header["ledger_start"]), tuple(map(str, bodies)), str(header["ledger_head"]))


def _to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            raise WireError(
                f"tensor {name} is bfloat16, which has no wire form", "keep parameters in float32"
            )
    return ArrayRecord(
        {name: Array(np.asarray(t.detach().cpu().contiguous().numpy())) for name, t in tensors.items()}
    )


def _from_arrays(record: ArrayRecord) -> dict[str, Tensor]:
    # A copy: Flower's arrays are views of read-only bytes.
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items()}


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
