"""Sites without data or training: they hold real keys, speak to the real server, and answer as they are told.

    python -m tests.e2e.light_site ADDRESS MANNER FOLDER...

Each FOLDER is an installed site. A manner is `honest`, or one of `LIES`: what a site that is broken, or in
somebody else's hands, might send; `every` is all of them, one in each round of the codec, and before each an
attempt to fill the coordinator's disk, whose statuses are printed.
"""

import dataclasses
import random
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import torch
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supernode.fleet_http_connection import http_request_response

from client.installation import AUTHORITY_FILE, NODE_KEY, Installation
from common.errors import ErrorCode
from common.federation.headers import FailureHeader, Introduction, OrderHeader, Question
from common.federation.messages import TrainOrder, TrainReport
from common.federation.packet import PARAMETERS, Packet
from common.federation.packing import order_from_packet, report_to_packet
from common.federation.sealing import sealed
from common.federation.stage import Stage
from common.federation.wire import packet_from_records, packet_to_records
from common.release import release
from common.seal import SealKey

IDLE_S = 0.5
FLOOD_BYTES, LARGE_OBJECT = 64 << 20, 3 << 20
AT_A_TIME = threading.Semaphore(2)  # of many sites in one process, that hold a model


def _moved(order: TrainOrder, by: float = 1e-3) -> dict[str, torch.Tensor]:
    """Return the order's tensors, moved a little, and differently by every site."""
    generator = torch.Generator().manual_seed(sum(order.site.encode()))
    noise = torch.randn(1, generator=generator)
    return {
        name: tensor if "quantizer" in name else tensor + (by * noise).to(tensor.dtype)
        for name, tensor in order.parameters.items()
    }


def _report(order: TrainOrder, steps: int, tensors: dict[str, torch.Tensor]) -> TrainReport:
    return TrainReport(order.study_digest, order.site, order.stage, order.round_index, tensors, steps, 1.0)


def honest_report(order: TrainOrder, steps: int) -> TrainReport:
    """Return what an honest site reports of an order."""
    return _report(order, steps, _moved(order))


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors))


def _with(tensors, name, tensor):
    return {**tensors, name: tensor}


LIES = {
    "nan": lambda t: _with(t, _first(t), t[_first(t)] * torch.nan),
    "far": lambda t: {n: tensor if "quantizer" in n else tensor + 1e6 for n, tensor in t.items()},
    "shape": lambda t: _with(t, _first(t), t[_first(t)][..., None]),
    "extra": lambda t: _with(t, "patient", torch.zeros(3)),
    "forged": lambda t: t,
    "altered": lambda t: t,
    "unsealed": lambda t: t,
}


class LightSite:
    """One site.

    Args:
        folder: Its installation.
        manner: How it answers.
    """

    def __init__(self, folder: Path, manner: str) -> None:
        self.folder = folder
        self.manner = manner
        self.installed = Installation(folder)
        self.name = folder.name
        self.key = self.installed.key
        self.study = self.installed.study

    def answer(self, packet: Packet) -> Packet:
        header = packet.read()
        if isinstance(header, Question):
            introduction = Introduction(nonce=header.nonce, site=self.name, release=release())
            return sealed(Packet.of(introduction), self.key)
        if not isinstance(header, OrderHeader):
            unknown = FailureHeader(order_id=header.order_id, site=self.name, code=ErrorCode.UNKNOWN)
            return sealed(Packet.of(unknown), self.key)
        order = order_from_packet(packet)
        manner = self._manner(order)
        tensors = LIES.get(manner, lambda t: t)(_moved(order))
        report = _report(order, self.study.schedule_of(order.stage).local_steps, tensors)
        made = report_to_packet(report, header.order_id)
        if manner == "unsealed":
            return made
        if manner == "altered":
            content = bytearray(made.sections[PARAMETERS])
            content[-1] ^= 1
            return sealed(dataclasses.replace(made, sections={PARAMETERS: bytes(content)}), self.key)
        return sealed(made, SealKey.generate() if manner == "forged" else self.key)

    def _manner(self, order: TrainOrder) -> str:
        """Return how to answer an order: in turn if it is to be every lie."""
        if self.manner != "every":
            return self.manner
        return list(LIES)[(order.round_index - 1) % len(LIES)] if order.stage is Stage.CODEC else "honest"

    def serve(self, address: str, stop: threading.Event) -> None:
        """Answer until told to stop."""
        private = load_ssh_private_key((self.folder / NODE_KEY).read_bytes(), None)
        keys = (private, private.public_key())
        authority = str(self.folder / AUTHORITY_FILE)
        with http_request_response(address, False, authority, keys) as connection:
            while not stop.is_set():
                if not self._once(connection):
                    time.sleep(IDLE_S)

    def _once(self, connection) -> bool:
        _, receive, _, _, _, pull_object, _, confirm = connection
        received = receive()
        if received is None:
            return False
        envelope, tree = received
        run = envelope.metadata.run_id
        with AT_A_TIME:
            names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
            contents = pull_objects(names, partial(pull_object, run))
            message = inflate_object_from_contents(tree.object_id, contents)
            message.metadata.__dict__["_message_id"] = tree.object_id
            confirm(run, tree.object_id)
            answer = self.answer(packet_from_records(message.content))
            if self.manner == "every" and answer.sections:
                self._flood(connection, message, answer)
            self._send(connection, message, answer)
        return True

    @staticmethod
    def _send(connection, message: Message, answer: Packet) -> str:
        """Send a reply; return the session that its objects belong to."""
        _, _, send, _, _, _, push_object, _ = connection
        reply = Message(packet_to_records(answer), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        wanted, session = send(reply, get_object_tree(reply), 0.0)
        push = partial(push_object, message.metadata.run_id, session)
        push_objects(get_all_nested_objects(reply), push, object_ids_to_push=wanted)
        return session

    def _flood(self, connection, message: Message, answer: Packet) -> None:
        """Try to leave far more at the coordinator than was asked for: in many objects, and in one."""
        content = {PARAMETERS: random.Random(0).randbytes(FLOOD_BYTES)}
        push_object = connection[6]
        for attempt in (
            lambda: self._send(connection, message, dataclasses.replace(answer, sections=content)),
            lambda: push_object(message.metadata.run_id, "", "0" * 64, bytes(LARGE_OBJECT)),
        ):
            try:
                attempt()
                print("flood: taken", flush=True)
            except httpx.HTTPStatusError as error:
                print(f"flood: {error.response.status_code} {error.response.text}", flush=True)


def main() -> None:
    """Serve all sites, each in a thread."""
    address, manner, *folders = sys.argv[1:]
    stop = threading.Event()
    for folder in folders:
        site = LightSite(Path(folder), manner)
        threading.Thread(target=site.serve, args=(address, stop), daemon=True).start()
    print(f"{len(folders)} light sites", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
