"""One round's orders, and the reports that count among what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.errors import BudgetError, ErrorCode, FederationError, LedgerError, QuorumError
from common.federation.allow_list import check_report
from common.federation.messages import FailureReport, TrainOrder, TrainReport
from common.federation.stage import Stage
from common.report_rules import rules_for
from common.study import Study
from server.events import EventLog
from server.ledger_heads import LedgerHeads
from server.state import GlobalState
from server.transport import Exchange, Transport


@dataclass(frozen=True)
class Collector:
    """Asks the sites of one run.

    Attributes:
        study: The study.
        transport: How sites are reached.
        log: Where events go.
        run: Identifier of the run: what a site's ledger calls it.
        heads: Last heads of the sites' ledgers.
        holders: Sites that are known to hold what is frozen and need not be sent it again.
    """

    study: Study
    transport: Transport
    log: EventLog
    run: str
    heads: LedgerHeads
    holders: set[str] = field(default_factory=set)

    def collect(self, state: GlobalState) -> tuple[Exchange, list[TrainReport]]:
        """Return the valid reports of the round after ``state``, asking missing sites again up to the limit.

        Raises:
            BudgetError: Too few sites can still pay for a round.
            QuorumError: Too few valid reports in every attempt.
        """
        study = self.study
        sites = sorted(study.federation.sites)
        valid: dict[str, TrainReport] = {}
        spent: set[str] = set()
        down = up = 0
        for attempt in range(1, study.federation.round_attempts + 1):
            asked = [site for site in sites if site not in valid and site not in spent]
            orders = self.orders(state, asked, attempt)
            exchange = self.transport.exchange(list(orders.values()), study.federation.round_deadline_s)
            down, up = down + exchange.bytes_down, up + exchange.bytes_up
            for report in exchange.reports:
                if isinstance(report, TrainReport) and self._accept(report, orders, attempt):
                    valid[report.site] = report
                elif isinstance(report, FailureReport):
                    self._note_failure(report, attempt)
                    private = self.study.privacy is not None  # or a site could end what costs it nothing
                    if private and report.code is ErrorCode.BUDGET and report.site in orders:
                        spent.add(report.site)
            for site in sorted(orders.keys() - {report.site for report in exchange.reports}):
                said = exchange.said.get(site, "")
                self.log.append("site_missing", site=site, attempt=attempt, said=said)
            if len(valid) >= study.federation.quorum:
                return Exchange((), down, up), [valid[site] for site in sorted(valid)]
            if len(sites) - len(spent) < study.federation.quorum:
                raise BudgetError(f"the privacy budget of {', '.join(sorted(spent))} is spent")
        raise QuorumError(
            f"{state.stage.value} round {state.round_index + 1}: {len(valid)} of {len(sites)} sites sent a "
            f"valid report, the study needs {study.federation.quorum}",
            "see events.jsonl for each site's code, mend the site and resume the run",
        )

    def orders(self, state: GlobalState, sites: Sequence[str], attempt: int) -> dict[str, TrainOrder]:
        """Return the order of the round after ``state`` for each of ``sites``."""
        diffusion = state.stage is Stage.DIFFUSION
        frozen = state.frozen if diffusion else {}
        private = self.study.privacy is not None
        return {
            site: TrainOrder(
                study_digest=self.study.digest,
                site=site,
                stage=state.stage,
                round_index=state.round_index + 1,
                parameters=state.trained,
                frozen_digest=state.frozen_digest if diffusion else "",
                frozen={} if site in self.holders else frozen,
                run=self.run,
                attempt=attempt,
                ledger_head=self.heads.last(site) if private else "",
            )
            for site in sites
        }

    def _accept(self, report: TrainReport, orders: dict[str, TrainOrder], attempt: int) -> bool:
        """Return whether ``report`` counts; log why if it does not."""
        if report.site not in orders:
            self.log.append("report_rejected", site="unknown", attempt=attempt, reason="not asked")
            return False
        try:
            order = orders[report.site]
            check_report(report, order, rules_for(self.study, order))
            if report.ledger is not None:
                self.heads.accept(report.site, report.ledger, order)
        except (FederationError, LedgerError) as error:
            self.log.append("report_rejected", site=report.site, attempt=attempt, reason=error.message)
            return False
        if report.stage is Stage.DIFFUSION:
            self.holders.add(report.site)
        return True

    def _note_failure(self, report: FailureReport, attempt: int) -> None:
        if report.code is ErrorCode.NEED_FROZEN:
            self.holders.discard(report.site)
        self.log.append("site_failed", site=report.site, attempt=attempt, code=report.code.value)
