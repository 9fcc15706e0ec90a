"""The generator behind an arm's volumes: a run that ended, and what a reader has to know of it."""

from pathlib import Path
from typing import Any

from common.errors import RunError
from common.study import Study
from server.checkpoint import CheckpointStore
from server.promise import Books, promise
from server.run_folder import RUN_FILE, RunFolder
from server.state import GlobalState, is_finished


def is_trained(run: Path) -> bool:
    """Whether there is a run whose last round is done, and no budget ended it early: half is none."""
    if not (run / RUN_FILE).is_file():
        return False
    study = RunFolder.open(run).study()
    state = _newest(run, study)
    return state is not None and is_finished(state, study) and not state.ended


def model_digest(run: Path) -> str:
    """Return the SHA-256 of a finished run's networks.

    Raises:
        RunError: It has none yet.
    """
    return _last(run, RunFolder.open(run).study()).model_digest


def generator_facts(run: Path) -> dict[str, Any]:
    """Return what tells a finished run's generator from others, and what it promises to patients."""
    folder = RunFolder.open(run)
    study = folder.study()
    state = _last(run, study)
    promised = promise(study, Books.of(folder)) or {}
    return {
        "run": run.name,
        "study": study.name,
        "sites": list(study.federation.sites),
        "rounds": state.round_index,
        "model": state.model_digest,
        "privacy": {
            name: promised[name] for name in ("epsilon", "delta", "public_model") if name in promised
        },
    }


def _newest(run: Path, study: Study) -> GlobalState | None:
    return CheckpointStore(RunFolder.open(run).checkpoints, study.digest).load_newest()


def _last(run: Path, study: Study) -> GlobalState:
    state = _newest(run, study)
    if state is None:
        raise RunError(f"{run} has no checkpoint", "train it to its end, or leave its arms out")
    return state
