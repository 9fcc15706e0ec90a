"""Open a run folder for a study and its data, and run or resume it there."""

import contextlib
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.site_config import Compute, SiteConfig, load_site_config
from common.errors import FedvoxError, RunError
from common.study import Study
from experiments.simulate import Workers, check_sites, create_ledgers, simulate, site_configs, source_of
from experiments.study_file import SimulationPlan
from server.checkpoint import CheckpointStore
from server.public_model import opening_state
from server.run_folder import RUN_FILE, RunFolder
from server.state import is_finished


@dataclass(frozen=True)
class PreparedRun:
    """A run folder that matches its study and data, ready to be started.

    Attributes:
        study: The study.
        configs: Each site's file.
        run: The folder.
        workers: Sites at a time, and threads of each.
    """

    study: Study
    configs: Mapping[str, SiteConfig]
    run: RunFolder
    workers: Workers


def open_run(
    study: Study,
    plan: SimulationPlan,
    data: Path,
    folder: Path,
    device: str = "cpu",
    start_from: Path | None = None,
) -> PreparedRun:
    """Check the data, and create the run's folder or open an earlier start of the same run.

    Args:
        study: The study.
        plan: How ``data`` is dealt out.
        data: The volumes.
        folder: The run's folder.
        device: Device of every site.
        start_from: Run folder of the public model that a private study starts from.

    Raises:
        DataError: The data is not what the study needs; nothing was written.
        RunError: The folder holds another study, or was started on other data.
    """
    if (folder / RUN_FILE).exists():
        return _opened(_reopen(study, folder, data_must_lie_in=data), start_from)
    opening_state(study, start_from)  # refused before anything is written
    workers = Workers.for_machine(len(study.federation.sites))
    compute = Compute(device=device, threads=workers.threads)
    configs = site_configs(study, plan, data, folder / "sites", compute)
    public = _images_of(start_from) if start_from is not None else ()
    return _opened(_prepare(study, configs, folder, workers, public), start_from)


def _opened(prepared: PreparedRun, start_from: Path | None) -> PreparedRun:
    """Give a private run that has no checkpoint yet its public model and its ledgers."""
    store = CheckpointStore(prepared.run.checkpoints, prepared.study.digest)
    if prepared.study.privacy is not None and store.load_newest() is None:
        opening = opening_state(prepared.study, start_from)
        create_ledgers(prepared.configs)
        if opening is not None:
            store.save(opening)
    return prepared


def resume_run(folder: Path) -> PreparedRun:
    """Open an earlier start of a run on the data it was started with.

    A run that ended early, because privacy budgets were spent, asks the sites again: one may have a larger
    cap by now.

    Raises:
        RunError: There is no such run, or its data has changed.
    """
    prepared = _reopen(RunFolder.open(folder).study(), folder, data_must_lie_in=None)
    store = CheckpointStore(prepared.run.checkpoints, prepared.study.digest)
    state = store.load_newest()
    if state is not None and state.ended:
        prepared.run.remove_results()  # they are of the model that was the last one then
        store.save(dataclasses.replace(state, ended=False))
    return prepared


def start_run(prepared: PreparedRun) -> None:
    """Run or resume to the end; a finished run is left as it is.

    Raises:
        FedvoxError: What stopped the run.
    """
    store = CheckpointStore(prepared.run.checkpoints, prepared.study.digest)
    state = store.load_newest()
    if state is not None and is_finished(state, prepared.study):
        return
    simulate(prepared.configs, prepared.run, prepared.workers)


def _reopen(study: Study, folder: Path, data_must_lie_in: Path | None) -> PreparedRun:
    # The stored site files, not new ones: another number of threads would round differently.
    files = sorted((folder / "sites").glob("*/site.yaml"))
    configs = {config.name: config for config in map(load_site_config, files)}
    if set(configs) != set(study.federation.sites):
        raise RunError(f"{folder} was started with sites {', '.join(configs)}", "choose another --name")
    threads = next(iter(configs.values())).compute.threads or 1
    workers = Workers(Workers.for_machine(len(configs)).count, threads)
    if data_must_lie_in is not None:
        root = data_must_lie_in.resolve()
        for config in configs.values():
            if root not in (config.data, *config.data.parents):
                raise RunError(
                    f"{folder} was started on {config.data}, not on {data_must_lie_in}",
                    "give that folder, or choose another --name",
                )
    public = RunFolder.open(folder).record()["source"].get("public_images", ())
    return _prepare(study, configs, folder, workers, public)


def _prepare(
    study: Study,
    configs: Mapping[str, SiteConfig],
    folder: Path,
    workers: Workers,
    public_images: Sequence[str],
) -> PreparedRun:
    try:
        source = source_of(check_sites(study, configs))
        _refuse_shared_images(source["images"], public_images)
    except FedvoxError:
        if not (folder / RUN_FILE).exists():
            shutil.rmtree(folder / "sites", ignore_errors=True)
            with contextlib.suppress(OSError):  # the folder was there before, with something in it
                folder.rmdir()
        raise
    if public_images:
        source["public_images"] = list(public_images)
    if study.privacy is not None:
        source["mark"] = "RESEARCH"  # of ledgers that are this run's alone
    run = RunFolder.create_or_resume(folder, study, source)
    return PreparedRun(study, configs, run, workers)


def _images_of(run: Path) -> list[str]:
    """Return the images that a run was trained on; none of a run whose hospitals have them."""
    return list(RunFolder.open(run).record()["source"].get("images", ()))


def _refuse_shared_images(images: Sequence[str], public: Sequence[str]) -> None:
    """Raise if a private site holds an image that the public model was trained on.

    That model has seen its patient without any noise, and nothing that is trained later takes it back.
    """
    shared = set(images) & set(public)
    if shared:
        raise RunError(
            f"{len(shared)} of the sites' images were used to train the public model, without any privacy",
            "start from a model of volumes that are public, of other patients",
        )
