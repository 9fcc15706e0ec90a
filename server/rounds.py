"""The run: order, collect, check, aggregate, checkpoint, until both stages are done.

A round is a pure function of the global state, the round index, the sites' data and the study's
seed; so a run that was interrupted anywhere goes on from its newest checkpoint to the same bits.
"""

import time
from collections.abc import Callable, Sequence

from common.errors import ErrorCode, QuorumError, RejectedReportError
from common.federation.allow_list import check_report
from common.federation.config import TrainingConfig
from common.federation.messages import FailureReport, Stage, TrainOrder, TrainReport
from common.study import Study
from server.aggregate import next_state
from server.checkpoint import CheckpointStore
from server.events import EventLog
from server.state import GlobalState, initial_state, is_finished, start_diffusion
from server.transport import Exchange, Transport


def run_study(
    study: Study,
    transport: Transport,
    store: CheckpointStore,
    log: EventLog,
    after_round: Callable[[GlobalState], None] | None = None,
) -> GlobalState:
    """Run or resume a study to its end.

    Args:
        study: What to run.
        transport: How sites are reached.
        store: Where checkpoints lie; the newest one is the starting point.
        log: Where events go.
        after_round: Called with each committed state; what it raises stops the run there.

    Returns:
        The state after the last round of the last stage.

    Raises:
        QuorumError: A round had too few valid reports in every attempt.
        ArtifactError: A checkpoint could not be read or written.
    """
    state = store.load_newest()
    if state is None:
        log.append("run_started", study=study.name, digest=study.digest)
        state = initial_state(study)
    elif not is_finished(state, study):
        log.append("run_resumed", stage=state.stage.value, round=state.round_index)
    holders: set[str] = set()  # sites that are known to hold the frozen codec
    while not is_finished(state, study):
        if state.stage is Stage.CODEC and state.round_index >= study.codec.training.rounds:
            state = start_diffusion(state, study)
        started = time.monotonic()
        exchange, reports = _collect(study, state, transport, log, holders)
        state = next_state(state, reports, study)
        store.save(state)
        _log_round(log, state, exchange, reports, time.monotonic() - started)
        if state.round_index == training_of(study, state.stage).rounds:
            log.append("stage_finished", stage=state.stage.value)
        if is_finished(state, study):
            log.append("run_finished")
        if after_round is not None:
            after_round(state)
    return state


def training_of(study: Study, stage: Stage) -> TrainingConfig:
    """Return the schedule of ``stage``."""
    return study.codec.training if stage is Stage.CODEC else study.diffusion.training


def make_orders(
    study: Study, state: GlobalState, sites: Sequence[str], holders: set[str]
) -> dict[str, TrainOrder]:
    """Return the next round's order for each of ``sites``.

    Args:
        study: The study.
        state: The global state the round starts from.
        sites: Names of the sites to ask.
        holders: Sites that hold the frozen codec and need not be sent it again.
    """
    diffusion = state.stage is Stage.DIFFUSION
    frozen = state.frozen_codec if diffusion else {}
    digest = state.codec_digest if diffusion else ""
    return {
        site: TrainOrder(
            study_digest=study.digest,
            site=site,
            stage=state.stage,
            round_index=state.round_index + 1,
            parameters=state.trained,
            codec_digest=digest,
            codec={} if site in holders else frozen,
        )
        for site in sites
    }


def _collect(
    study: Study, state: GlobalState, transport: Transport, log: EventLog, holders: set[str]
) -> tuple[Exchange, list[TrainReport]]:
    """Return the valid reports of one round, asking the missing sites again up to the limit."""
    sites = sorted(study.federation.sites)
    valid: dict[str, TrainReport] = {}
    down = up = 0
    for attempt in range(1, study.federation.round_attempts + 1):
        missing = [site for site in sites if site not in valid]
        orders = make_orders(study, state, missing, holders)
        exchange = transport.exchange(list(orders.values()), study.federation.round_deadline_s)
        down, up = down + exchange.bytes_down, up + exchange.bytes_up
        for report in exchange.reports:
            if isinstance(report, TrainReport) and _accept(report, orders, log, attempt, holders):
                valid[report.site] = report
            elif isinstance(report, FailureReport):
                _note_failure(report, log, attempt, holders)
        for site in sorted(orders.keys() - {report.site for report in exchange.reports}):
            log.append("site_missing", site=site, attempt=attempt)
        if len(valid) >= study.federation.quorum:
            return Exchange((), down, up), [valid[site] for site in sorted(valid)]
    raise QuorumError(
        f"{state.stage.value} round {state.round_index + 1}: {len(valid)} of {len(sites)} sites sent a valid "
        f"report, the study needs {study.federation.quorum}",
        "see events.jsonl for each site's code, mend the site and resume the run",
    )


def _accept(
    report: TrainReport, orders: dict[str, TrainOrder], log: EventLog, attempt: int, holders: set[str]
) -> bool:
    """Return whether ``report`` counts; log why if it does not."""
    if report.site not in orders:
        log.append("report_rejected", site="unknown", attempt=attempt, reason="not asked")
        return False
    try:
        check_report(report, orders[report.site])
    except RejectedReportError as error:
        log.append("report_rejected", site=report.site, attempt=attempt, reason=error.message)
        return False
    if report.stage is Stage.DIFFUSION:
        holders.add(report.site)
    return True


def _note_failure(report: FailureReport, log: EventLog, attempt: int, holders: set[str]) -> None:
    if report.code is ErrorCode.NEED_CODEC:
        holders.discard(report.site)
    log.append("site_failed", site=report.site, attempt=attempt, code=report.code.value)


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
