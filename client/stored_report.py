"""A private report as bytes: what the ledger keeps, and what the same order gets again."""

import json
import struct

from safetensors.torch import load, save

from common.federation.messages import TrainReport
from common.federation.stage import Stage

_LENGTH_BYTES = 8  # safetensors: little-endian length of the JSON header, then the header


def report_to_bytes(report: TrainReport) -> bytes:
    """Return the report without its ledger proof, which is made anew each time it leaves."""
    header = {
        "study_digest": report.study_digest,
        "site": report.site,
        "stage": report.stage.value,
        "round_index": report.round_index,
        "steps": report.steps,
    }
    content: bytes = save(dict(report.parameters), metadata={"report": json.dumps(header)})
    return content


def report_from_bytes(content: bytes) -> TrainReport:
    """Return the report that `report_to_bytes` wrote."""
    (length,) = struct.unpack("<Q", content[:_LENGTH_BYTES])
    names = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    header = json.loads(names["__metadata__"]["report"])
    stage = Stage(header.pop("stage"))
    return TrainReport(stage=stage, parameters=load(content), seconds=0.0, **header)
