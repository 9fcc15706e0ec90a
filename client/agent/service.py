"""The agent's socket: gRPC on a path that the courier's group may open, and nobody else.

Two methods, both plain bytes, so that no generated code stands between the socket and what is checked:

    Hello    JSON: protocol and release
    Answer   a packet in frames, answered by a packet in frames

Nothing of a packet is received before its envelope was let through; then it is spooled to the disk.
"""

import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from client.agent.desk import Desk
from client.frames import CHANNEL, HELLO, METHOD, Envelope, section_frames, to_frames
from client.site import code_of
from common.errors import ConfigError
from common.federation.headers import PROTOCOL, Header, OrderHeader, header_from_bytes
from common.federation.packet import Packet
from common.release import release

logger = logging.getLogger("fedvox.agent")

FOLDER_MODE, SOCKET_MODE = 0o750, 0o660
MOST_COURIERS = 4  # at a time; one is enough, and a dead one's call may still be open


class AgentService:
    """Serves a desk on a socket.

    Args:
        desk: Answers.
        socket: Path of the socket; its folder is made if need be.
        group: Group of the courier's user, which may open the socket; nobody else by default.
        spool: Folder for what is being received.
    """

    def __init__(self, desk: Desk, socket: Path, group: str | None, spool: Path) -> None:
        self._desk = desk
        self._socket = socket
        self._group = group
        self._spool = spool
        self._server = grpc.server(
            ThreadPoolExecutor(MOST_COURIERS, "courier"),
            maximum_concurrent_rpcs=MOST_COURIERS,
            options=CHANNEL,
        )
        self._server.add_generic_rpc_handlers((_Handlers(self._hello, self._answer),))

    def start(self) -> None:
        """Open the socket.

        Raises:
            ConfigError: It cannot be opened, or its group does not exist.
        """
        shutil.rmtree(self._spool, ignore_errors=True)  # of calls that were cut off
        self._spool.mkdir(parents=True, mode=0o700)
        folder = self._socket.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._socket.unlink(missing_ok=True)
            folder.chmod(FOLDER_MODE)
            before = os.umask(0o777 & ~stat.S_IRUSR & ~stat.S_IWUSR)
            try:
                credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
                self._server.add_secure_port(f"unix:{self._socket}", credentials)
                self._server.start()
            finally:
                os.umask(before)
            if self._group is not None:
                for path in (folder, self._socket):
                    shutil.chown(path, group=self._group)
            self._socket.chmod(SOCKET_MODE)
        except (OSError, LookupError, RuntimeError) as error:
            raise ConfigError(
                f"the socket {self._socket} cannot be opened: {error}", "check agent.socket and agent.group"
            ) from None

    def stop(self) -> None:
        """Close the socket; an order that is being done is begun again by the next agent."""
        self._server.stop(grace=0).wait()
        self._socket.unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait until the service was stopped."""
        self._server.wait_for_termination()

    def _hello(self, request: bytes, context: grpc.ServicerContext) -> bytes:  # noqa: ARG002
        return json.dumps({"protocol": PROTOCOL, "release": release()}).encode()

    def _answer(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:  # noqa: ARG002
        order_id = ""
        try:
            envelope = Envelope.from_bytes(next(frames, b""))
            header = header_from_bytes(envelope.header)
            order_id = getattr(header, "order_id", "")
            packet = self._received(envelope, header, frames)
        except Exception as error:
            logger.exception("refused before it was received")
            yield from to_frames(self._desk.failure(order_id, code_of(error)))
            return
        yield from to_frames(self._desk.answer(packet))

    def _received(self, envelope: Envelope, header: Header, frames: Iterator[bytes]) -> Packet:
        """Return the packet that ``frames`` go on with, after its envelope was let through."""
        if isinstance(header, OrderHeader):
            self._desk.refuse_unwanted(envelope.header, envelope.seal, envelope.sizes)
        elif envelope.sizes:
            raise ConfigError("a small message with tensors", "compare fedvox versions")
        with tempfile.TemporaryDirectory(dir=self._spool) as folder:
            spooled = {name: Path(folder) / name for name in envelope.sizes}
            for name, frame in section_frames(frames, envelope.sizes):
                with spooled[name].open("ab") as file:
                    file.write(frame)
            sections = {name: path.read_bytes() for name, path in spooled.items()}
        return Packet(envelope.header, envelope.seal, sections)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """The two methods."""

    def __init__(self, hello, answer) -> None:  # type: ignore[no-untyped-def]
        self._known = {
            HELLO: grpc.unary_unary_rpc_method_handler(hello),
            METHOD: grpc.stream_stream_rpc_method_handler(answer),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call."""
        return self._known.get(details.method)
