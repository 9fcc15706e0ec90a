"""The orders that a site has taken and its answers, on the disk until their round is over.

    orders/ID/order.header, order.seal, parameters, frozen     as they came
    orders/ID/answer.header, answer.seal, answer.parameters    as it left, and leaves again
    orders/run-RUN.json                                        the place that the run has reached

An order's place is (stage, round, attempt) of a run. A run moves forward only: once an order of a later
round was taken, the rounds before are over, and what is kept of them is removed. The same order may come as
often as it wants; two different ones for one place are an attack or a fault.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.artifact import OWNER_ONLY, replaced_folder, write_text_atomic
from common.disk_room import refuse_full_disk
from common.errors import ReplayError, VersionError
from common.federation.headers import OrderHeader
from common.federation.packet import FROZEN, PARAMETERS, Packet
from common.federation.stage import Stage

logger = logging.getLogger("fedvox.agent")

_STAGES = tuple(Stage)
_VERSION = 1  # of what lies in the folder
_SPARE_BYTES = 256 << 20  # for caches, logs, whoever else writes there
_ANSWER = "answer"


@dataclass(frozen=True, order=True)
class Place:
    """Where in a run an order stands; later ones are greater."""

    stage: int
    round_index: int
    attempt: int

    @classmethod
    def of(cls, header: OrderHeader) -> "Place":
        """Return the place of an order."""
        return cls(_STAGES.index(header.stage), header.round_index, header.attempt)

    @property
    def round(self) -> tuple[int, int]:
        """Stage and round."""
        return self.stage, self.round_index


class OrderBook:
    """Orders and answers of one site.

    Args:
        folder: Where they are kept; for the site's own user alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)

    def refuse_overtaken(self, header: OrderHeader) -> None:
        """Return if the order may still be done.

        Raises:
            ReplayError: Its round is over, or another order has its place.
        """
        known = self._places(header.run)
        place = Place.of(header)
        if known and place.round < max(known).round:
            raise ReplayError(
                f"an order for {header.stage.value} round {header.round_index}, which is over",
                "resume the run from its newest checkpoint, or begin a new one",
            )
        if known.get(place, header.order_id) != header.order_id:
            raise ReplayError(
                f"another order for {header.stage.value} {header.round_index}, attempt {header.attempt}",
                "a changed order is another attempt",
            )

    def refuse_large(self, num_bytes: int) -> None:
        """Return if there is room for an order of so many bytes, its answer, and what is made meanwhile.

        Raises:
            ArtifactError: There is not.
        """
        refuse_full_disk(self._folder, 4 * num_bytes + _SPARE_BYTES, "an order")

    def take(self, header: OrderHeader, packet: Packet) -> None:
        """Keep an order; the rounds before it are over."""
        self.refuse_overtaken(header)
        known, place = self._places(header.run), Place.of(header)
        self._note_gap(known, place, header)
        files = {"order.header": packet.header, "order.seal": packet.seal, **packet.sections}
        self._write(self._path(header.order_id), files)
        over = [other for other in known if other.round < place.round]
        for other in over:
            shutil.rmtree(self._path(known.pop(other)), ignore_errors=True)
        known[place] = header.order_id
        listed = [[p.stage, p.round_index, p.attempt, order_id] for p, order_id in sorted(known.items())]
        record = {"version": _VERSION, "study": header.study_digest, "orders": listed}
        write_text_atomic(self._record(header.run), json.dumps(record))

    def runs_of(self, study_digest: str) -> set[str]:
        """Return the runs of a study that an order was taken of."""
        records = self._folder.glob("run-*.json")
        named = {path.stem.removeprefix("run-"): _read_record(path) for path in records}
        return {run for run, record in named.items() if record["study"] == study_digest}

    def order(self, order_id: str) -> Packet | None:
        """Return an order that was taken and is not over, or None."""
        return self._packet(self._path(order_id), "order", (PARAMETERS, FROZEN))

    def answer(self, order_id: str) -> Packet | None:
        """Return the answer that was given to an order, or None."""
        return self._packet(self._path(order_id) / _ANSWER, "answer", (PARAMETERS,))

    def keep_answer(self, order_id: str, packet: Packet) -> None:
        """Put an answer on the disk; only then may it leave."""
        files = {"answer.header": packet.header, "answer.seal": packet.seal, **packet.sections}
        self._write(self._path(order_id) / _ANSWER, files)

    def _path(self, order_id: str) -> Path:
        return self._folder / order_id

    def _places(self, run: str) -> dict[Place, str]:
        path = self._record(run)
        record = _read_record(path) if path.is_file() else {"orders": []}
        return {Place(*numbers): order_id for *numbers, order_id in record["orders"]}

    def _record(self, run: str) -> Path:
        return self._folder / f"run-{run}.json"

    @staticmethod
    def _note_gap(known: Mapping[Place, str], place: Place, header: OrderHeader) -> None:
        last = max(known).round if known else (place.stage, 0)
        if last[0] == place.stage and place.round_index > last[1] + 1:
            logger.warning(
                "missed rounds %d to %d of %s", last[1] + 1, place.round_index - 1, header.stage.value
            )

    @staticmethod
    def _write(folder: Path, files: Mapping[str, bytes]) -> None:
        with replaced_folder(folder) as partial:
            for name, content in files.items():
                (partial / name).write_bytes(content)

    @staticmethod
    def _packet(folder: Path, kind: str, sections: tuple[str, ...]) -> Packet | None:
        header = folder / f"{kind}.header"
        if not header.is_file():
            return None
        found = {name: (folder / name).read_bytes() for name in sections if (folder / name).is_file()}
        return Packet(header.read_bytes(), (folder / f"{kind}.seal").read_bytes(), found)


def _read_record(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("version") != _VERSION:
        raise VersionError(
            f"{path} was written by another release of fedvox",
            "finish its run with that release, or remove the folder of orders when no run is open",
        )
    return record
