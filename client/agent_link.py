"""The courier's end of the agent's socket. No torch here: a courier starts anew for every message."""

import json
from pathlib import Path

import grpc

from client.frames import CHANNEL, HELLO, METHOD, from_frames, to_frames
from common.errors import RunError, VersionError
from common.federation.headers import PROTOCOL
from common.federation.packet import Packet
from common.release import release

CONNECT_S = 10.0
ANSWER_S = 180.0  # the agent answers within 60 s of having the order


class AgentLink:
    """Hands packets to the agent behind a socket.

    Args:
        socket: Path of the socket.
    """

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.secure_channel(
            f"unix:{socket}",
            grpc.local_channel_credentials(grpc.LocalConnectionType.UDS),
            options=CHANNEL,
        )

    def greet(self) -> None:
        """Compare protocol and release with the agent's.

        Raises:
            VersionError: The agent speaks another protocol, or is of another release.
            RunError: There is no agent.
        """
        try:
            said = json.loads(self._channel.unary_unary(HELLO)(b"", timeout=CONNECT_S))
        except grpc.RpcError as error:
            raise RunError(f"no agent answers: {error.code().name}", "fedvox site start") from None
        if (said["protocol"], said["release"]) != (PROTOCOL, release()):
            raise VersionError(
                f"the agent is fedvox {said['release']}, the courier {release()}",
                "install one release at the site, and restart its agent",
            )

    def answer(self, packet: Packet) -> Packet:
        """Return the agent's answer.

        Raises:
            VersionError: The agent speaks another protocol, or is of another release.
            RunError: There is no agent, or it went away.
        """
        self.greet()
        try:
            return from_frames(self._channel.stream_stream(METHOD)(to_frames(packet), timeout=ANSWER_S))
        except grpc.RpcError as error:
            raise RunError(f"the agent does not answer: {error.code().name}", "fedvox site start") from None
