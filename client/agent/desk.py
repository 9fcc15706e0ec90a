"""The agent's desk: takes sealed orders, does one at a time, keeps the answers.

    order         new: checked, put on the disk, begun            known: its answer, or how far it is
    follow-up     its answer, how far it is, or E_UNKNOWN: send it whole
    cancellation  the order stops after its step

Whoever waits may go away: an order that was taken is done, until its deadline, and its answer waits on the
disk. An agent that died while it did an order begins that order again when somebody asks after it. Nothing
that is raised here leaves but as a code.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from client.agent.gate import Gate
from client.agent.order_book import OrderBook
from client.approval import Approval
from client.site import Site, code_of
from common.errors import ErrorCode, InterruptedOrderError, UnapprovedError, WireError
from common.federation.headers import (
    Cancellation,
    FailureHeader,
    FollowUp,
    Introduction,
    OrderHeader,
    ProgressHeader,
    Question,
    header_from_bytes,
)
from common.federation.messages import FailureReport
from common.federation.packet import Packet, sections_of
from common.federation.packing import order_from_packet, report_to_packet
from common.federation.sealing import sealed, verified_header
from common.release import release
from common.seal import SealKey
from common.study import Study

logger = logging.getLogger("fedvox.agent")

LONGEST_WAIT_S = 60.0

SiteOf = Callable[[Study], Site]


@dataclass
class Job:
    """An order that is being done.

    Attributes:
        header: The order's.
        approval: By whose leave.
        give_up_at: When its time is over, by the monotonic clock.
        interrupted: Why it should stop, if it should.
        fraction: How far it is.
        answer: What came of it.
        done: Set with the answer.
    """

    header: OrderHeader
    approval: Approval
    give_up_at: float
    interrupted: ErrorCode | None = None
    fraction: float = 0.0
    answer: Packet | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def title(self) -> str:
        """Study, stage, round and attempt, for the log."""
        header = self.header
        where = f"{header.stage.value} round {header.round_index}, attempt {header.attempt}"
        return f"study {self.approval.study.name}, {where}"

    def on_step(self, fraction: float) -> None:
        """Note how far it is; stop if nobody wants the order any more.

        Raises:
            InterruptedOrderError: It was called off, or its time is over.
        """
        self.fraction = fraction
        if self.interrupted is None and time.monotonic() > self.give_up_at:
            self.interrupted = ErrorCode.DEADLINE
        if self.interrupted is not None:
            raise InterruptedOrderError(self.interrupted)


class Desk:
    """Answers packets of coordinators, whoever carries them.

    Args:
        name: The site.
        gate: What it has agreed to.
        book: Its orders and answers.
        key: What it signs with.
        site_of: Opens the site for a study.
    """

    def __init__(self, name: str, gate: Gate, book: OrderBook, key: SealKey, site_of: SiteOf) -> None:
        self.name = name
        self._gate = gate
        self._book = book
        self._key = key
        self._site_of = site_of
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._draining = False

    def refuse_unwanted(self, header: bytes, seal: bytes, sizes: Mapping[str, int]) -> None:
        """Return if the sections of an order may be received: asked before a byte of them is.

        Args:
            header: The order's header.
            seal: Its seal.
            sizes: Bytes of the sections that would follow.

        Raises:
            FedvoxError: They may not.
        """
        order, approval = self._gate.order(header, seal)
        if dict(sizes) != {name: section.size for name, section in sections_of(order).items()}:
            raise WireError("sections that the header does not vouch for", "send it again")
        self._refuse_more_runs(order, approval)
        self._book.refuse_overtaken(order)
        self._book.refuse_large(sum(sizes.values()))

    def answer(self, packet: Packet, wait_s: float = LONGEST_WAIT_S) -> Packet:
        """Return the answer to a packet, sealed, after waiting for it for at most ``wait_s`` seconds."""
        order_id = ""
        try:
            header = header_from_bytes(packet.header)
            match header:
                case OrderHeader():
                    order_id = header.order_id
                    found = self._to_order(packet)
                case FollowUp():
                    order_id = header.order_id
                    found = self._to_follow_up(order_id)
                case Cancellation():
                    order_id = header.order_id
                    found = self._to_cancellation(packet, order_id)
                case Question():
                    found = self._introduction(header)
                case _:
                    found = self.failure(order_id, ErrorCode.CONFIG)
        except Exception as error:
            logger.exception("refused")
            return self.failure(order_id, code_of(error))
        return self._waited_for(found, wait_s) if isinstance(found, Job) else found

    def _introduction(self, question: Question) -> Packet:
        introduction = Introduction(nonce=question.nonce, site=self.name, release=release())
        return sealed(Packet.of(introduction), self._key)

    def failure(self, order_id: str, code: ErrorCode) -> Packet:
        """Return a sealed refusal."""
        return sealed(Packet.of(FailureHeader(order_id=order_id, site=self.name, code=code)), self._key)

    def _to_order(self, packet: Packet) -> Job | Packet:
        header, approval = self._gate.order(packet.header, packet.seal)
        with self._lock:
            in_hand = self._in_hand(header.order_id)
            if in_hand is not None:
                return in_hand
            packet.read()  # the sections are those that the header vouches for
            self._refuse_more_runs(header, approval)
            self._book.take(header, packet)
            return self._begun(header, approval, packet)

    def _to_follow_up(self, order_id: str) -> Job | Packet:
        with self._lock:
            in_hand = self._in_hand(order_id)
            if in_hand is not None:
                return in_hand
            if self._job is not None and self._job.header.order_id == order_id:
                return self._job  # it failed; only the whole order begins it again
            packet = self._book.order(order_id)
            if packet is None:
                return self.failure(order_id, ErrorCode.UNKNOWN)
            header, approval = self._gate.order(packet.header, packet.seal)
            return self._begun(header, approval, packet)

    def _to_cancellation(self, packet: Packet, order_id: str) -> Packet:
        with self._lock:
            job = self._job
            if job is None or job.header.order_id != order_id or job.done.is_set():
                return self.failure(order_id, ErrorCode.UNKNOWN)
            verified_header(packet.header, packet.seal, job.approval.key)
            job.interrupted = ErrorCode.CANCELLED
        job.done.wait(LONGEST_WAIT_S)
        return self.failure(order_id, ErrorCode.CANCELLED)

    def cancel(self) -> bool:
        """Call off whatever is being done, by the site's own operator; return whether there was anything."""
        with self._lock:
            if not self._busy() or self._job is None:
                return False
            self._job.interrupted = ErrorCode.CANCELLED
            return True

    def drain(self) -> None:
        """Take no new order any more, and return when the one at hand is done."""
        with self._lock:
            self._draining = True
            job = self._job
        if job is not None:
            job.done.wait()

    def _busy(self) -> bool:
        return self._job is not None and not self._job.done.is_set()

    def _in_hand(self, order_id: str) -> Job | Packet | None:
        """Return the order's answer, or its job while it runs, or that another runs; None if it may begin."""
        known = self._book.answer(order_id)
        if known is not None:
            return known
        if self._job is None or not self._busy():
            return self.failure(order_id, ErrorCode.BUSY) if self._draining else None
        same = self._job.header.order_id == order_id
        return self._job if same else self.failure(order_id, ErrorCode.BUSY)

    def _begun(self, header: OrderHeader, approval: Approval, packet: Packet) -> Job:
        job = Job(header, approval, time.monotonic() + header.deadline_s)
        self._job = job
        logger.info("%s: begun", job.title)
        threading.Thread(target=self._do, args=(job, packet), name="order", daemon=True).start()
        return job

    def _refuse_more_runs(self, header: OrderHeader, approval: Approval) -> None:
        runs = self._book.runs_of(header.study_digest)
        if header.run not in runs and len(runs) >= approval.runs:
            raise UnapprovedError(
                f"study {approval.study.name} is begun anew, and {approval.runs} runs were approved",
                "approve it again: fedvox site approve STUDY --runs N",
            )

    def _do(self, job: Job, packet: Packet) -> None:
        try:
            job.answer = self._done(job, packet)
        except Exception as error:
            logger.exception("order failed")
            job.answer = self.failure(job.header.order_id, code_of(error))
        finally:
            job.done.set()

    def _done(self, job: Job, packet: Packet) -> Packet:
        site = self._site_of(job.approval.study)

        def on_step(stage: str, round_index: int, step: int, num_steps: int, loss: float | None) -> None:
            site.on_step(stage, round_index, step, num_steps, loss)
            job.on_step(step / num_steps)

        begun = time.monotonic()
        report = site.execute(order_from_packet(packet), on_step)
        answer = sealed(report_to_packet(report, job.header.order_id), self._key)
        seconds = time.monotonic() - begun
        if isinstance(report, FailureReport):  # it is tried again when the order comes again
            logger.warning("%s: %s after %.1f s", job.title, report.code.value, seconds)
            return answer
        self._book.keep_answer(job.header.order_id, answer)
        num_bytes = sum(map(len, answer.sections.values()))
        logger.info("%s: done in %.1f s, %.1f MB to send", job.title, seconds, num_bytes / 1e6)
        return answer

    def _waited_for(self, job: Job, wait_s: float) -> Packet:
        job.done.wait(min(wait_s, LONGEST_WAIT_S))
        if job.done.is_set() and job.answer is not None:
            return job.answer
        progress = ProgressHeader(
            order_id=job.header.order_id, site=self.name, fraction=round(job.fraction, 3)
        )
        return sealed(Packet.of(progress), self._key)
