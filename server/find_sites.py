"""Which of Flower's nodes is which site: each is asked once, and says it under its seal."""

import math
import secrets
import time
from collections.abc import Sequence

from flwr.app import MessageType
from flwr.serverapp import Grid

from common.errors import FederationError, FedvoxError
from common.federation.headers import Introduction, Question
from common.federation.packet import Packet
from server.flower_messages import fetched, make_message, sent
from server.seals import Seals

HELLO = f"{MessageType.QUERY}.hello"
POLL_S = 0.2
ASK_AGAIN_S = 5.0  # a node that could not say its name
ANSWER_S = 60.0
GRACE_S = 60.0  # for the last sites, once there are enough


class SiteFinder:
    """Knows the nodes of the sites that are connected.

    Args:
        grid: Flower's grid.
        sites: Names of the sites of the study.
        seals: Of the sites.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], seals: Seals) -> None:
        self._grid = grid
        self._sites = tuple(sites)
        self._seals = seals
        self._failed: set[int] = set()
        self._ask_at: dict[int, float] = {}
        self._asked: dict[str, tuple[int, str]] = {}  # node and nonce by message
        self.node_of: dict[str, int] = {}

    @property
    def missing(self) -> list[str]:
        """Sites that have not connected."""
        return sorted(set(self._sites) - self.node_of.keys())

    def look(self) -> None:
        """Ask the nodes that are new, and take what others have said since; waits for nothing.

        Raises:
            FederationError: Two nodes are one site.
        """
        now = time.monotonic()
        for node in self._grid.get_node_ids():
            if self._ask_at.get(node, now) > now:
                continue
            self._ask_at[node] = math.inf
            nonce = secrets.token_hex(32)
            message = make_message(Packet.of(Question(nonce=nonce)), HELLO, node, ANSWER_S)
            name = sent(self._grid, message)
            if name is None:
                self._ask_at[node] = now + ASK_AGAIN_S
                continue
            self._asked[name] = (node, nonce)
        for message in sorted(self._asked):
            answered, packet = fetched(self._grid, message)
            if answered:
                self._take(*self._asked.pop(message), packet)

    def _take(self, node: int, nonce: str, packet: Packet | None) -> None:
        site = self._name_in(packet, nonce)
        if site is None:
            self._failed.add(node)  # its own log says why
            self._ask_at[node] = time.monotonic() + ASK_AGAIN_S
        elif self.node_of.setdefault(site, node) != node:
            raise FederationError(f"two nodes call themselves {site}", "give each site its own name")
        else:
            self._failed.discard(node)

    def wait(self, enough: int, deadline_s: float) -> None:
        """Return when all sites are connected, or, some time later, enough of them.

        Args:
            enough: Sites that a round needs.
            deadline_s: Seconds to wait for that.

        Raises:
            FederationError: Too few sites connected in time, or two nodes are one site.
        """
        give_up = time.monotonic() + deadline_s
        go_on = math.inf
        while True:
            self.look()
            now = time.monotonic()
            if len(self.node_of) >= enough:
                go_on = min(go_on, now + GRACE_S)
            if not self.missing or now > go_on:
                return
            if now > give_up and len(self.node_of) < enough:
                raise FederationError(
                    f"sites not connected after {deadline_s:.0f} s: {', '.join(self.missing)}; "
                    f"{len(self._failed)} other nodes are none of them or cannot say their names",
                    "start them, read the log of those that cannot, or edit federation.sites",
                )
            time.sleep(POLL_S)

    def _name_in(self, packet: Packet | None, nonce: str) -> str | None:
        """Return the name of a site of the study that a node proves to be, or None."""
        try:
            header = packet.read() if packet is not None else None
            if packet is None or not isinstance(header, Introduction) or header.nonce != nonce:
                return None
            if header.site not in self._sites:
                return None
            self._seals.refuse_unsealed(packet, header.site)
        except FedvoxError:
            return None
        return header.site
