"""Sites called directly, one after another: for tests and for experiments without Ray."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.site import Site
from client.site_config import SiteConfig
from common.federation.headers import OrderHeader
from common.federation.messages import TrainOrder
from common.federation.packing import (
    order_from_packet,
    order_to_packet,
    report_from_packet,
    report_to_packet,
)
from common.study import Study
from server.rounds import RunRecords, run_study
from server.run_folder import RunFolder
from server.state import GlobalState, is_finished
from server.transport import Exchange


class InProcessTransport:
    """Runs every order in this process, through the same wire form as Flower would.

    Args:
        sites: The sites by name.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def exchange(self, orders: Sequence[TrainOrder], deadline_s: float) -> Exchange:
        """Return all reports; a direct call has no deadline to miss."""
        reports, down, up = [], 0, 0
        for order in orders:
            sent = order_to_packet(order, deadline_s)
            report = self.sites[order.site].execute(order_from_packet(sent))
            answered = report_to_packet(report, sent.read_as(OrderHeader).order_id)
            reports.append(report_from_packet(answered))
            down, up = down + sent.num_bytes, up + answered.num_bytes
        return Exchange(reports, down, up)


def run_in_process(
    study: Study,
    configs: Mapping[str, SiteConfig],
    folder: Path,
    source: Mapping[str, Any],
    opening: Callable[[], GlobalState] | None = None,
) -> tuple[RunFolder, GlobalState]:
    """Run a study to its end, or go on where an earlier call stopped; return its folder and last state.

    Args:
        study: The study.
        configs: The sites by name.
        folder: The run's folder.
        source: What else the run depends on; see `RunFolder.create_or_resume`.
        opening: Makes the state that a new run begins with; by default the study's own.

    Raises:
        FedvoxError: What stopped the run.
    """
    run = RunFolder.create_or_resume(folder, study, dict(source))
    records = RunRecords.of(run)
    state = records.store.load_newest()
    if state is not None and is_finished(state, study):
        return run, state
    if state is None and opening is not None:
        records.store.save(opening())
    sites = {name: Site(config, study, on_step=lambda *_: None) for name, config in configs.items()}
    return run, run_study(study, InProcessTransport(sites), records)
