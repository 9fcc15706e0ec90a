"""The run: order, collect, check, aggregate, checkpoint, until both stages are done.

A round is a pure function of the global state, the round index, the sites' data and the study's
seed; so a run that was interrupted anywhere goes on from its newest checkpoint to the same bits.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import BudgetError, FederationError, LedgerError
from common.federation.messages import TrainReport
from common.federation.stage import Stage
from common.federation.tensor_check import first_not_finite
from common.study import Study
from server.aggregate import next_state
from server.checkpoint import CheckpointStore
from server.collect import Collector
from server.combine import Combined, combined
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
        BudgetError: The sites' privacy budgets allowed no round of the last stage at all.
        FederationError: A round's reports add up to numbers that are none.
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
            if state.stage is Stage.DIFFUSION and state.round_index == 0:
                raise  # the public model would go out as one that was trained on patients
            state = dataclasses.replace(state, ended=True)
        else:
            amount = combined(reports, state.trained, study.federation)
            state = _finite(next_state(state, amount.tensors, study))
            _log_round(log, state, exchange, reports, amount, time.monotonic() - started)
        records.store.save(state)
        if state.ended or state.round_index == study.schedule_of(state.stage).rounds:
            log.append("stage_finished", stage=state.stage.value)
        if is_finished(state, study):
            log.append("run_finished")
        if after_round is not None:
            after_round(state)
    return state


def _opened(study: Study, records: RunRecords) -> GlobalState:
    """Return the state to go on from.

    Raises:
        LedgerError: What was seen of the sites' ledgers is lost, and a rolled-back one would be taken.
    """
    state = records.store.load_newest()
    began = state is not None and (state.round_index > 0 or state.stage is not _first_stage(study))
    if study.privacy is not None and began and not records.heads.exists:
        raise LedgerError(
            "the run has lost its record of the sites' ledgers",
            "restore ledger_heads.json, or begin a new run with --name",
        )
    if state is None or not records.log.path.exists():
        records.log.append("run_started", study=study.name, digest=study.digest)
    elif not is_finished(state, study):
        records.log.append("run_resumed", stage=state.stage.value, round=state.round_index)
    return initial_state(study) if state is None else state


def _first_stage(study: Study) -> Stage:
    return next(iter(study.private_plans), Stage.CODEC)


def _finite(state: GlobalState) -> GlobalState:
    """Return ``state`` if it is one to go on from: finite reports may add up to more than a number holds.

    Raises:
        FederationError: It is none; the newest checkpoint is that of the round before.
    """
    held = {**state.trained, **state.denoiser_average, **state.optimizer}
    wrong = first_not_finite(held)
    if wrong is not None:
        raise FederationError(
            f"{state.stage.value} round {state.round_index}: after aggregation, {wrong}",
            "lower the learning rates, or leave out the site whose report is far from the others'",
        )
    return state


def _log_round(
    log: EventLog,
    state: GlobalState,
    exchange: Exchange,
    reports: list[TrainReport],
    amount: Combined,
    seconds: float,
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
                "share": round(amount.shares[report.site], 4),
                "metrics": {name: float(value) for name, value in sorted(report.metrics.items())},
            }
            for report in reports
        },
    )
