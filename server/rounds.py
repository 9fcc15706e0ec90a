"""The run: order, collect, check, aggregate, checkpoint, until both stages are done.

A round is a pure function of the global state, the round index, the sites' data and the study's
seed; so a run that was interrupted anywhere goes on from its newest checkpoint to the same bits.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import BudgetError
from common.federation.messages import TrainReport
from common.federation.stage import Stage
from common.study import Study
from server.aggregate import next_state
from server.checkpoint import CheckpointStore
from server.collect import Collector
from server.events import EventLog
from server.ledger_heads import LedgerHeads
from server.run_folder import RunFolder
from server.state import GlobalState, initial_state, is_finished, start_diffusion
from server.transport import Exchange, Transport


@dataclass(frozen=True)
class RunRecords:
    """Where one run is written down.

    Attributes:
        run: Identifier of the run.
        store: Checkpoints; the newest one is the starting point.
        log: Events.
        heads: Last heads of the sites' privacy ledgers.
    """

    run: str
    store: CheckpointStore
    log: EventLog
    heads: LedgerHeads

    @classmethod
    def of(cls, run: RunFolder) -> "RunRecords":
        """Return those in a run's folder."""
        store = CheckpointStore(run.checkpoints, run.study().digest)
        return cls(run.identifier, store, EventLog(run.events), LedgerHeads(run.ledger_heads))


def run_study(
    study: Study,
    transport: Transport,
    records: RunRecords,
    after_round: Callable[[GlobalState], None] | None = None,
) -> GlobalState:
    """Run or resume a study to its end.

    Args:
        study: What to run.
        transport: How sites are reached.
        records: Where the run is written down.
        after_round: Called with each committed state; what it raises stops the run there.

    Returns:
        The state after the last round of the last stage, or the last one that the sites' privacy budgets
        allowed.

    Raises:
        QuorumError: A round had too few valid reports in every attempt.
        ArtifactError: A checkpoint could not be read or written.
    """
    log = records.log
    state = _opened(study, records)
    collector = Collector(study, transport, log, records.run, records.heads)
    while not is_finished(state, study):
        if state.stage is Stage.CODEC and (state.ended or state.round_index >= study.codec.training.rounds):
            state = start_diffusion(state, study)
        started = time.monotonic()
        try:
            exchange, reports = collector.collect(state)
        except BudgetError as error:
            log.append("budget_spent", stage=state.stage.value, round=state.round_index, reason=error.message)
            state = dataclasses.replace(state, ended=True)
        else:
            state = next_state(state, reports, study)
            _log_round(log, state, exchange, reports, time.monotonic() - started)
        records.store.save(state)
        if state.ended or state.round_index == study.schedule_of(state.stage).rounds:
            log.append("stage_finished", stage=state.stage.value)
        if is_finished(state, study):
            log.append("run_finished")
        if after_round is not None:
            after_round(state)
    return state


def _opened(study: Study, records: RunRecords) -> GlobalState:
    """Return the state to go on from."""
    state = records.store.load_newest()
    if state is None or not records.log.path.exists():
        records.log.append("run_started", study=study.name, digest=study.digest)
    elif not is_finished(state, study):
        records.log.append("run_resumed", stage=state.stage.value, round=state.round_index)
    return initial_state(study) if state is None else state


def _log_round(
    log: EventLog, state: GlobalState, exchange: Exchange, reports: list[TrainReport], seconds: float
) -> None:
    log.append(
        "round_finished",
        stage=state.stage.value,
        round=state.round_index,
        seconds=round(seconds, 3),
        bytes_down=exchange.bytes_down,
        bytes_up=exchange.bytes_up,
        sites={
            report.site: {
                "steps": report.steps,
                "seconds": round(report.seconds, 3),
                "metrics": {name: float(value) for name, value in sorted(report.metrics.items())},
            }
            for report in reports
        },
    )
