"""Flower's ClientApp, the courier: `client.app:app`.

It carries packets to where they are worked on, and what comes back to the coordinator. At a hospital that
is the site's agent, another process of another user, behind the socket that the node's own configuration
names (``agent-socket``). In simulation, where a node knows only its number, it is a `Site` in this process:
node i plays the i-th site of the study. No message and no run's configuration chooses either.

Flower starts a process for every message, so nothing here loads torch before it must. Whatever is raised
ends in a code: Flower would send the text of an exception to the coordinator, and a text may name a file,
and a file a patient.
"""

import logging
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import ErrorCode, FedvoxError
from common.federation.headers import FailureHeader
from common.federation.packet import Packet
from common.federation.wire import packet_from_records, packet_to_records

UNKNOWN_SITE = "unknown"
SOCKET = "agent-socket"

app = ClientApp()
logger = logging.getLogger("fedvox.courier")


class Desk(Protocol):
    """Where packets are answered."""

    def answer(self, packet: Packet) -> Packet:
        """Return the answer to a coordinator's packet: its name, a report, how far it is, or a code."""
        ...


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this node is."""
    return _carried(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carry an order, or what is asked about one."""
    return _carried(message, context)


def _carried(message: Message, context: Context) -> Message:
    try:
        content = packet_to_records(_desk(context).answer(packet_from_records(message.content)))
    except Exception as error:
        content = _failure(error)
    return Message(content, reply_to=message)


def _failure(error: Exception) -> RecordDict:
    """Return a report of what failed before the site itself could answer."""
    logger.error("no site to answer with", exc_info=error)
    code = error.code if isinstance(error, FedvoxError) else ErrorCode.INTERNAL
    header = FailureHeader(order_id="", site=UNKNOWN_SITE, code=code)
    return packet_to_records(Packet.of(header))


def _desk(context: Context) -> Desk:
    if SOCKET in context.node_config:
        from client.agent_link import AgentLink

        return AgentLink(Path(str(context.node_config[SOCKET])))
    from client.simulated_desk import simulated_desk

    return simulated_desk(context.node_config.get("partition-id"))
