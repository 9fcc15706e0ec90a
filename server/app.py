"""Flower's ServerApp: `server.app:app`.

The run's folder comes from the run configuration (`run-folder`) or, in simulation, from the
environment variable ``FEDVOX_RUN_FOLDER``.
"""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import RunError
from server.coordinator import Coordinator
from server.find_sites import SiteFinder
from server.flower_transport import FlowerTransport
from server.round_board import RoundBoard
from server.rounds import RunRecords, run_study
from server.run_folder import RunFolder
from server.seals import NoSeals, Seals, StudySeals
from server.spool import Spool

RUN_FOLDER_VARIABLE = "FEDVOX_RUN_FOLDER"
CONNECT_DEADLINE_S = 600.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the study of the run folder."""
    run = RunFolder.open(_run_folder(context))
    study = run.study()
    seals = _seals(context)
    with run.driven_by_one():
        finder = SiteFinder(grid, study.federation.sites, seals)
        finder.wait(study.federation.quorum, CONNECT_DEADLINE_S)
        transport = FlowerTransport(grid, finder, seals, Spool(run.spool), RoundBoard(run.board))
        run_study(study, transport, RunRecords.of(run))


def _seals(context: Context) -> Seals:
    """Return the keys of the coordinator whose run it is; a simulation has none."""
    folder = context.run_config.get("coordinator")
    if not folder:
        return NoSeals()
    coordinator = Coordinator(Path(str(folder)))
    return StudySeals(coordinator.key, coordinator.keys)


def _run_folder(context: Context) -> Path:
    configured = context.run_config.get("run-folder") or os.environ.get(RUN_FOLDER_VARIABLE)
    if not configured:
        raise RunError("no run folder given", f"set run-folder in the run config or {RUN_FOLDER_VARIABLE}")
    return Path(str(configured))
