"""Drives a study over the coordinator's own Flower server: on its host, where alone runs can be submitted."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from common.artifact import write_text_atomic
from common.disk_room import refuse_full_disk
from common.errors import RunError
from common.seal import SealKey
from deploy.disk_need import disk_need, least_room
from deploy.flower_command import UNKNOWN, FlowerCommand
from server.checkpoint import CheckpointStore
from server.coordinator import Coordinator
from server.events import EventLog
from server.public_model import opening_state
from server.run_folder import RunFolder
from server.state import is_finished

POLL_S = 1.0
DRIVEN_S = 30.0  # after which Flower is asked although a driver is at work: a question starts a process
ASK_AGAIN_S = 3.0
SERVER_UP_S = 60.0
MOST_RESTARTS = 3
GONE_S = 10.0  # that no driver is at work before it counts as dead: Flower takes a minute and more to say so
OVER, RUNNING = "finished", "running"
START_S = 300.0  # within which a run is running, or again
DRIVER = "driver"  # file with Flower's identifier of the run's driver

Say = Callable[[str], None]


def open_server_run(
    coordinator: Coordinator, folder: Path, start_from: Path | None, say: Say = print
) -> RunFolder:
    """Return the folder of a run of the coordinator's study: a new one, or one to go on with.

    Raises:
        RunError: It holds another run, too few sites are enrolled, or the public model is not the study's.
        ArtifactError: A disk is too full.
    """
    study = coordinator.study
    missing = sorted(set(study.federation.sites) - coordinator.keys().keys())
    if len(study.federation.sites) - len(missing) < study.federation.quorum:
        raise RunError(f"not enrolled: {', '.join(missing)}", "fedvox provision enrol SITE.enrol")
    if missing:
        say(f"goes on without {', '.join(missing)}: not enrolled, or revoked")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_full_disks(coordinator, folder, disk_need(study))
    begun = CheckpointStore(RunFolder(folder).checkpoints, study.digest).load_newest() is not None
    opening = None if begun else opening_state(study, start_from)
    run = RunFolder.create_or_resume(folder, study, {"coordinator": coordinator.key.public.fingerprint})
    if opening is not None:
        CheckpointStore(run.checkpoints, study.digest).save(opening)
    return run


def drive(coordinator: Coordinator, run: RunFolder, port: int, say: Say) -> None:
    """Run the study to its end.

    A driver that dies is started again from the newest checkpoint, at most `MOST_RESTARTS` times.

    Raises:
        ArtifactError: The disk is full, and a new driver would die of it as well.
        RunError: Flower's server does not answer, or the study did not come to its end.
    """
    flower = FlowerCommand(coordinator, port)
    _wait_for_server(flower, say)
    store = CheckpointStore(run.checkpoints, coordinator.study.digest)
    for attempt in range(MOST_RESTARTS + 1):
        if attempt:
            say(f"the driver stopped; started again from the newest checkpoint, {attempt} of {MOST_RESTARTS}")
            EventLog(run.events).append("driver_restarted", attempt=attempt)
        status = _run_to_its_end(flower, run)
        state = store.load_newest()
        if state is not None and is_finished(state, coordinator.study):
            return
        _refuse_full_disks(coordinator, run.path, least_room(coordinator.study))
    raise RunError(f"the study did not finish: {status}", f"see {run.events} and the executor's log")


def _refuse_full_disks(coordinator: Coordinator, run: Path, needed: int) -> None:
    """Return if there is room where Flower's database is and where the run is."""
    for place in (coordinator.folder, run):
        refuse_full_disk(place, needed, f"study {coordinator.study.name}")


def _wait_for_server(flower: FlowerCommand, say: Say) -> None:
    """Return once the sites are registered; a server that was just started takes some seconds."""
    give_up = time.monotonic() + SERVER_UP_S
    while True:
        try:
            flower.admit_sites()
        except RunError as error:
            if time.monotonic() > give_up:
                raise
            say(f"waiting for the server: {error.message}")
            time.sleep(ASK_AGAIN_S)
        else:
            return


def _run_to_its_end(flower: FlowerCommand, run: RunFolder) -> str:
    """Wait until Flower calls the run over, submitted if it is not running; return in which state."""
    noted = run.path / DRIVER
    identifier = noted.read_text(encoding="utf-8").strip() if noted.is_file() else ""
    if not identifier or flower.status(identifier).startswith((OVER, UNKNOWN)):
        identifier = flower.submit(run.path)
        write_text_atomic(noted, identifier + "\n")  # whoever drives next goes on with this one
    heard = begun = time.monotonic()
    driven = math.inf  # when a driver was last at work
    while True:
        asked = time.monotonic()  # not when it answers: a server with large models to move may take its time
        status = flower.status(identifier)
        if status.startswith(OVER):
            return status
        heard = heard if status == UNKNOWN else asked
        begun = asked if status == RUNNING else begun
        if asked > driven + GONE_S and status == RUNNING:
            flower.stop(identifier)
            return "stopped, its driver died"
        if asked > heard + SERVER_UP_S:
            return status  # the server is gone, or has forgotten the run
        if asked > begun + START_S and status != UNKNOWN:
            raise RunError(
                f"the run is {status} since {START_S:.0f} s and nobody starts its driver",
                "start the executor: fedvox server start executor",
            )
        time.sleep(POLL_S)
        if status == RUNNING and run.is_driven:
            _wait_while_driven(run)
            driven = time.monotonic()


def _wait_while_driven(run: RunFolder) -> None:
    """Return as soon as no driver is at work on the run, or it is time to ask Flower nevertheless."""
    ask_at = time.monotonic() + DRIVEN_S
    while run.is_driven and time.monotonic() < ask_at:
        time.sleep(POLL_S)


def sealed_manifest(manifest: Path, key: SealKey) -> Path:
    """Write the coordinator's seal beside a manifest; return its path."""
    path = manifest.with_suffix(".seal")
    write_text_atomic(path, key.sign("manifest", manifest.read_bytes()).hex() + "\n")
    return path
