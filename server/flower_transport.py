"""Orders and reports over Flower's Grid."""

import math
import time
from collections.abc import Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.errors import FederationError, WireError
from common.federation.messages import FailureReport, Report, TrainOrder
from common.federation.packet import Packet
from common.federation.packing import order_to_packet, report_from_packet
from common.federation.wire import packet_from_records, packet_to_records
from server.transport import Exchange

HELLO = f"{MessageType.QUERY}.hello"
POLL_S = 0.2
ASK_AGAIN_S = 5.0  # a node that could not say its name: its person may be mending a file


class FlowerTransport:
    """Delivers orders to Flower nodes, which say once which site each of them is.

    Args:
        grid: Flower's grid.
        sites: Names of the sites of the study.
        connect_deadline_s: Seconds to wait until every site has said its name.

    Raises:
        FederationError: A site did not connect in time, or two nodes claim one name.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], connect_deadline_s: float) -> None:
        self.grid = grid
        self.node_of = self._find_sites(sites, connect_deadline_s)
        self._site_of = {node: site for site, node in self.node_of.items()}

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:
        """Return what arrived within ``deadline_s`` seconds; late replies are not waited for."""
        messages, bytes_down = [], 0
        for order in orders:
            packet = order_to_packet(order, deadline_s)
            bytes_down += packet.num_bytes
            records = packet_to_records(packet)
            messages.append(self._message(records, MessageType.TRAIN, self.node_of[order.site], deadline_s))
        reports: list[Report] = []
        bytes_up = 0
        for reply in self._send_and_receive(messages, deadline_s):
            if reply.has_error():
                continue  # Flower's own failures carry free text: a missing report is what they mean
            answer = self._packet_in(reply)
            if answer is None:
                continue
            bytes_up += answer.num_bytes
            report = self._of_its_sender(answer, reply.metadata.src_node_id)
            if report is not None:
                reports.append(report)
        return Exchange(reports, bytes_down, bytes_up)

    @staticmethod
    def _packet_in(reply: Message) -> Packet | None:
        try:
            return packet_from_records(reply.content)
        except WireError:
            return None

    def _of_its_sender(self, packet: Packet, node: int) -> Report | None:
        """Return the report in ``packet``; None if it is none, or speaks for another site than its node is.

        A site that spoke for another could spoil what is known of the other's ledger.
        """
        site = self._site_of.get(node)
        if site is None:
            return None
        try:
            report = report_from_packet(packet)
        except WireError:
            return None
        if isinstance(report, FailureReport):
            return FailureReport(site, report.code)  # the node may have failed before it knew its name
        return report if report.site == site else None

    def _find_sites(self, sites: Sequence[str], deadline_s: float) -> dict[str, int]:
        give_up = time.monotonic() + deadline_s
        known: dict[str, int] = {}
        failed: set[int] = set()
        ask_at: dict[int, float] = {}
        while True:
            now = time.monotonic()
            new = [node for node in self.grid.get_node_ids() if ask_at.get(node, now) <= now]
            ask_at |= dict.fromkeys(new, math.inf)
            messages = [self._message(RecordDict(), HELLO, node, deadline_s) for node in new]
            for reply in self._send_and_receive(messages, max(1.0, give_up - time.monotonic())):
                node = reply.metadata.src_node_id
                name = _name_in(reply)
                if name is None:
                    failed.add(node)  # its own log says why
                    ask_at[node] = time.monotonic() + ASK_AGAIN_S
                    continue
                failed.discard(node)
                if name not in sites:
                    continue  # a stranger cannot stop those who were asked
                if name in known:
                    raise FederationError(f"two nodes call themselves {name}", "give each site its own name")
                known[name] = node
            missing = sorted(set(sites) - set(known))
            if not missing:
                return known
            if time.monotonic() > give_up:
                raise FederationError(
                    f"sites not connected after {deadline_s:.0f} s: {', '.join(missing)}; "
                    f"{len(failed)} nodes answered that they cannot",
                    "start them, read the log of those that cannot, or edit federation.sites",
                )
            time.sleep(POLL_S)

    def _message(self, records: RecordDict, kind: str, node: int, ttl_s: float) -> Message:
        return Message(records, dst_node_id=node, message_type=kind, ttl=ttl_s + 60.0)

    def _send_and_receive(self, messages: list[Message], deadline_s: float) -> list[Message]:
        """Return the replies that came in time; Flower's own call polls only every 3 seconds."""
        if not messages:
            return []
        waiting = set(self.grid.push_messages(messages))
        give_up = time.monotonic() + deadline_s
        replies: list[Message] = []
        while waiting and time.monotonic() < give_up:
            arrived = list(self.grid.pull_messages(sorted(waiting)))
            replies.extend(arrived)
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if waiting:
                time.sleep(POLL_S)
        return replies


def _name_in(reply: Message) -> str | None:
    """Return the name that a node says, or None if it says none."""
    if reply.has_error():
        return None
    try:
        return str(reply.content.config_records["site"]["name"])
    except KeyError:
        return None
