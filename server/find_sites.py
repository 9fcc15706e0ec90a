"""Which of Flower's nodes is which site: each is asked once, and says it under its seal."""

import math
import secrets
import time
from collections.abc import Sequence

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.errors import FederationError, FedvoxError
from common.federation.headers import Introduction, Question
from common.federation.packet import Packet
from server.flower_transport import ASK_AGAIN_S, POLL_S, make_message, packet_in
from server.seals import Seals

HELLO = f"{MessageType.QUERY}.hello"
ANSWER_S = 60.0


def find_sites(grid: Grid, sites: Sequence[str], deadline_s: float, seals: Seals) -> dict[str, int]:
    """Return the node of each site.

    Args:
        grid: Flower's grid.
        sites: Names of the sites of the study.
        deadline_s: Seconds to wait until every site has said its name.
        seals: Of the sites.

    Raises:
        FederationError: A site did not connect in time, or two nodes are one site.
    """
    give_up = time.monotonic() + deadline_s
    known: dict[str, int] = {}
    failed: set[int] = set()
    ask_at: dict[int, float] = {}
    asked: dict[str, str] = {}  # nonce by message
    while True:
        now = time.monotonic()
        new = [node for node in grid.get_node_ids() if ask_at.get(node, now) <= now]
        for node in new:
            ask_at[node] = math.inf
            nonce = secrets.token_hex(32)
            packet = Packet.of(Question(nonce=nonce))
            (name,) = grid.push_messages([make_message(packet, HELLO, node, ANSWER_S)])
            asked[name] = nonce
        for reply in list(grid.pull_messages(sorted(asked))) if asked else []:
            nonce = asked.pop(reply.metadata.reply_to_message_id)
            node = reply.metadata.src_node_id
            site = _name_in(reply, nonce, sites, seals)
            if site is None:
                failed.add(node)  # its own log says why
                ask_at[node] = time.monotonic() + ASK_AGAIN_S
            elif known.setdefault(site, node) != node:
                raise FederationError(f"two nodes call themselves {site}", "give each site its own name")
            else:
                failed.discard(node)
        missing = sorted(set(sites) - set(known))
        if not missing:
            return known
        if time.monotonic() > give_up:
            raise FederationError(
                f"sites not connected after {deadline_s:.0f} s: {', '.join(missing)}; "
                f"{len(failed)} other nodes are none of them or cannot say their names",
                "start them, read the log of those that cannot, or edit federation.sites",
            )
        time.sleep(POLL_S)


def _name_in(reply: Message, nonce: str, sites: Sequence[str], seals: Seals) -> str | None:
    """Return the name of a site of the study that a node proves to be, or None."""
    packet = packet_in(reply)
    try:
        header = packet.read() if packet is not None else None
        if packet is None or not isinstance(header, Introduction) or header.nonce != nonce:
            return None
        if header.site not in sites:
            return None
        seals.refuse_unsealed(packet, header.site)
    except FedvoxError:
        return None
    return header.site
