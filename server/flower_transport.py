"""Orders and reports over Flower's Grid, whose messages may be lost while the order goes on at the site.

A courier waits a minute for its agent and then says how far the order is; the transport asks on, by small
messages, until the report is there or the deadline is over. A message that got lost, or a courier that died,
loses no work: the next question finds the order where it is. A site that is offline is waited for some time,
and in later rounds only as long as others are at work.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import MessageType
from flwr.serverapp import Grid

from common.errors import ErrorCode, FederationError, WireError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    OrderHeader,
    ProgressHeader,
    header_from_bytes,
)
from common.federation.messages import FailureReport, Report, TrainOrder, TrainReport
from common.federation.packet import Packet
from common.federation.packing import EncodedOnce, order_to_packet, report_from_packet
from server.errand import ANSWER_S, MOST_LOST, Errand, answer_s
from server.find_sites import SiteFinder
from server.flower_messages import fetched, make_message, sent
from server.round_board import (
    ANSWERED,
    ASKED,
    NOT_ADMITTED,
    NOT_CONNECTED,
    OFFLINE,
    SILENT,
    TRAINS,
    RoundBoard,
)
from server.seals import Seals
from server.spool import Spool
from server.transport import Exchange

POLL_S = 0.2
ASK_AGAIN_S = 5.0  # after a message got lost, or a site that is busy
OFFLINE_S = 600.0  # that a site may be offline in a round before it counts as gone


@dataclass
class _Traffic:
    """Bytes of sections, down and up."""

    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class FlowerTransport:
    """Delivers orders to Flower nodes.

    Attributes:
        grid: Flower's grid.
        finder: Knows the sites' nodes.
        seals: Of the coordinator and the sites.
        spool: Where reports' tensors lie.
        board: Told how the sites stand.
        gone: Sites that were offline when the last round ended without them.
        unheard: Messages whose answers nobody waited for.
    """

    grid: Grid
    finder: SiteFinder
    seals: Seals
    spool: Spool
    board: RoundBoard
    gone: set[str] = field(default_factory=set)
    unheard: list[str] = field(default_factory=list)

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:
        """Return what arrived within ``deadline_s`` seconds; late replies are not waited for.

        A site that is not connected, or was gone in the last round already, is waited for as long as others
        are at work; one that was revoked meanwhile is sent nothing, and nothing of it counts.

        Raises:
            ArtifactError: The disk is full.
            FederationError: Two nodes are one site.
        """
        traffic = _Traffic()
        give_up = time.monotonic() + deadline_s
        errands, encode = {}, EncodedOnce()
        for order in orders:
            packet = self.seals.sealed(order_to_packet(order, deadline_s, encode))
            errands[order.site] = Errand(packet, packet.read_as(OrderHeader).order_id)
        self.board.open(orders, deadline_s)
        present = self._present(errands)
        self._forget_answers()
        while time.monotonic() < give_up and not (present and all(e.is_over for e in present.values())):
            self._send_what_is_due(present, give_up, traffic)
            if not self._receive(errands, traffic):
                time.sleep(POLL_S)
            present = self._present(errands)
        self._call_off(present)
        for errand in errands.values():
            errand.wait_no_more()
            self.unheard.extend(errand.earlier)
        known = self._known(errands)
        reports = {
            s: errand.report for s, errand in errands.items() if errand.report is not None and s in known
        }
        absent = {site: errand for site, errand in errands.items() if site not in reports}
        self.gone.difference_update(errands)
        self.gone.update(site for site, errand in absent.items() if errand.offline_since is not None)
        said = {site: self.board.word_of(site) for site in absent}
        return Exchange(list(reports.values()), traffic.down, traffic.up, said)

    def _present(self, errands: dict[str, Errand]) -> dict[str, Errand]:
        """Return the errands at sites that are connected and not revoked, or were gone and are back."""
        if self.finder.missing:
            self.finder.look()
        if self.gone:
            online = set(self.grid.get_node_ids())
            self.gone.difference_update({s for s in self.gone if self.finder.node_of.get(s) in online})
        known, here = self._known(errands), {}
        for site in sorted(known):
            if site not in self.finder.node_of:
                self.board.note_absent(site, NOT_CONNECTED)
            elif site in self.gone:
                self.board.note_absent(site, OFFLINE)
            else:
                here[site] = errands[site]
        return here

    def _known(self, errands: dict[str, Errand]) -> set[str]:
        """Return the sites of which anything may count, and say so of the others."""
        known = self.seals.known_among(errands)
        for site in errands.keys() - known:
            self.board.note_absent(site, NOT_ADMITTED)
        return known

    def _call_off(self, errands: dict[str, Errand]) -> None:
        """Tell sites that nobody waits for their orders any more; whether they hear it is not waited for."""
        for site, errand in errands.items():
            if errand.is_over:
                continue
            packet = self.seals.sealed(Packet.of(Cancellation(order_id=errand.order_id)))
            node = self.finder.node_of[site]
            message = sent(self.grid, make_message(packet, MessageType.TRAIN, node, ANSWER_S))
            if message is not None:
                self.unheard.append(message)

    def _forget_answers(self) -> None:
        """Fetch the answers to what nobody waits for: else Flower would keep them as long as the run."""
        self.unheard[:] = [message for message in self.unheard if not fetched(self.grid, message)[0]]

    def _send_what_is_due(self, errands: dict[str, Errand], give_up: float, traffic: _Traffic) -> None:
        now = time.monotonic()
        for site, errand in errands.items():
            # The answer may lie there since another site's was fetched, which takes its time.
            late = errand.message is not None and now > errand.lost_at
            if late and not self._receive({site: errand}, traffic):
                self._note_lost(site, errand)
            if errand.is_over or errand.message is not None or errand.due > now:
                continue
            packet = errand.order if errand.whole else Packet.of(FollowUp(order_id=errand.order_id))
            if errand.whole:
                self.board.note(site, ASKED)
            errand.sent += errand.whole
            patience = min(answer_s(errand, errands.values()), give_up - now)
            node, life_s = self.finder.node_of[site], min(patience + OFFLINE_S, give_up - now)
            errand.message = sent(self.grid, make_message(packet, MessageType.TRAIN, node, life_s))
            errand.lost_at = now + patience
            if errand.message is None:
                self._note_lost(site, errand)
            traffic.down += packet.num_bytes

    def _receive(self, errands: dict[str, Errand], traffic: _Traffic) -> bool:
        """Take what has arrived, one reply at a time: memory holds no two; return whether anything has."""
        arrived = False
        for site, errand in errands.items():
            self._take_late(site, errand, traffic)
            if errand.message is None or errand.report is not None:
                continue
            answered, packet = fetched(self.grid, errand.message)
            if not answered:
                continue
            arrived = True
            errand.message = None
            if packet is None:
                self._note_lost(site, errand)
            else:
                traffic.up += packet.num_bytes
                self._take(site, errand, packet)
        return arrived

    def _take_late(self, site: str, errand: Errand, traffic: _Traffic) -> None:
        """Take a report that is the answer to an earlier message; what else such an answer says is old."""
        for message in tuple(errand.earlier) if errand.report is None else ():
            answered, packet = fetched(self.grid, message)
            if not answered:
                continue
            errand.earlier.remove(message)
            if packet is None:
                continue
            traffic.up += packet.num_bytes
            with contextlib.suppress(FederationError):
                answer = self._answer_in(packet, site, errand.order_id)
                if isinstance(answer, TrainReport):
                    self._take_report(site, errand, answer)

    def _take_report(self, site: str, errand: Errand, report: TrainReport) -> None:
        self.board.note(site, ANSWERED, 1.0)
        errand.report = report

    def _note_lost(self, site: str, errand: Errand, word: str = SILENT) -> None:
        now = time.monotonic()
        online = self.finder.node_of[site] in set(self.grid.get_node_ids())
        self.board.note(site, word if online else OFFLINE)
        errand.wait_no_more()
        errand.whole = False
        errand.due = now + ASK_AGAIN_S
        if online:
            errand.lost, errand.offline_since = errand.lost + 1, None
            return
        errand.offline_since = now if errand.offline_since is None else errand.offline_since
        if now > errand.offline_since + OFFLINE_S:
            errand.lost = MOST_LOST

    def _take(self, site: str, errand: Errand, packet: Packet) -> None:
        """Take an answer; one that is not by the site it should be from is as good as none."""
        try:
            answer = self._answer_in(packet, site, errand.order_id)
        except FederationError:
            self._note_lost(site, errand, _unsealed_word(packet))
            return
        errand.lost, errand.offline_since = 0, None
        match answer:
            case ProgressHeader():
                self.board.note(site, TRAINS, answer.fraction)
                errand.whole, errand.due = False, 0.0
            case TrainReport():
                self._take_report(site, errand, answer)
            case FailureReport(code=ErrorCode.UNKNOWN):
                errand.whole, errand.due = True, 0.0
            case FailureReport(code=ErrorCode.BUSY):
                self.board.note(site, ErrorCode.BUSY.value)
                errand.whole, errand.due = False, time.monotonic() + ASK_AGAIN_S
            case FailureReport():
                self.board.note(site, answer.code.value)
                errand.report = FailureReport(site, answer.code)  # a node may fail before it knows its name

    def _answer_in(self, packet: Packet, site: str, order_id: str) -> Report | ProgressHeader:
        """Return what a packet says.

        Raises:
            FederationError: It says nothing, or is not by the site, or answers another order.
        """
        header = header_from_bytes(packet.header)
        self.seals.refuse_unsealed(packet, site)
        named = getattr(header, "order_id", None)
        nameless = isinstance(header, FailureHeader) and not named and not packet.seal  # only in simulation
        if named != order_id and not nameless:
            raise WireError("an answer to another order", "compare fedvox versions")
        if isinstance(header, ProgressHeader):
            return packet.read_as(ProgressHeader)
        report = report_from_packet(packet, self.spool.keep)
        if isinstance(report, TrainReport) and report.site != site:
            raise WireError("a report of another site", "give each site its own name")
        return report


def _unsealed_word(packet: Packet) -> str:
    """Return the code in what a courier says of its own: for people who look, it decides nothing."""
    try:
        header = header_from_bytes(packet.header)
    except FederationError:
        return SILENT
    return f"courier: {header.code.value}" if isinstance(header, FailureHeader) else SILENT
