"""All sites of a study on one machine, by Flower's simulation engine.

The client and server code is that of a real deployment; only the transport differs. Each simulated
site gets its own folder and file under the run's ``sites/``, and sees no other's data.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import client.app
import client.simulated_desk
import server.app
from client.admission import check_admitted
from client.dataset import VolumeDataset
from client.policy import Policy
from client.private.ledger import Ledger
from client.site_config import Compute, Selection, SiteConfig
from common.artifact import write_text_atomic
from common.errors import DataError, DuplicatePatientError, FedvoxError
from common.quiet import FLOWER_QUIET
from common.study import Study
from experiments.study_file import SimulationPlan
from server.run_folder import RunFolder

QUIET = FLOWER_QUIET | {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Workers:
    """How many sites train at once, and with how many threads each.

    Threads are part of what makes a run repeatable: sums in another number of threads round
    differently.
    """

    count: int
    threads: int

    @classmethod
    def for_machine(cls, num_sites: int, cores: int | None = None) -> "Workers":
        """Return the division of ``cores`` with the least idle time.

        Sites take equal time when alone, so ``count`` sites at a time need ceil(sites / count)
        turns; threads beyond the first are worth less than a core each (about 0.8 was measured).
        """
        available = cores or os.cpu_count() or 1

        def duration(count: int) -> float:
            threads = max(1, available // count)
            return -(-num_sites // count) / (1 + 0.8 * (threads - 1))

        count = min(range(1, min(num_sites, available) + 1), key=duration)
        return cls(count, max(1, available // count))


def site_configs(
    study: Study, plan: SimulationPlan, data: Path, sites_folder: Path, compute: Compute
) -> dict[str, SiteConfig]:
    """Return one site file per site of the study.

    Args:
        study: Names the sites.
        plan: How ``data`` is dealt out.
        data: A folder of volumes with a split, or one with a folder per site.
        sites_folder: Where the sites' own folders will be.
        compute: Device and threads of every site.

    Raises:
        DataError: ``data`` or a site's folder is missing.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder", "check --data")
    configs = {}
    for name in study.federation.sites:
        # Absolute: a site file's paths are meant from its own folder.
        folder = (data if plan.split else data / name).resolve()
        if not folder.is_dir():
            raise DataError(
                f"{data} has no folder {name}",
                "without a split in the study's simulation block, each site needs a folder of its name",
            )
        table = plan.split or (folder / "patients.csv" if (folder / "patients.csv").is_file() else None)
        configs[name] = SiteConfig(
            name=name,
            data=folder,
            patients=table,
            select=Selection(site=name, part=plan.parts) if plan.split else None,
            compute=compute,
            state=(sites_folder / name).resolve(),
            policy=_sandbox_policy(study, (sites_folder / name).resolve()),
        )
    return configs


def _sandbox_policy(study: Study, state: Path) -> Policy:
    """Return the policy of a simulated site: what the study spends, in a ledger of this run alone."""
    if study.privacy is None:
        return Policy()
    privacy = study.privacy
    return Policy(epsilon=privacy.epsilon, delta=privacy.delta, ledger=state / "ledger", mark="RESEARCH")


def create_ledgers(configs: Mapping[str, SiteConfig]) -> None:
    """Give every simulated site of a new private run its ledger."""
    for config in configs.values():
        folder = config.policy.ledger
        if folder is not None and not Ledger.is_whole(folder):
            Ledger.create(folder)


def check_sites(study: Study, configs: Mapping[str, SiteConfig]) -> dict[str, VolumeDataset]:
    """Return every site's opened dataset.

    Raises:
        PolicyError: A private study, and nobody has said which exams are of one person.
        DataError: A file is not what the study needs.
        DuplicatePatientError: A patient is at two sites.
    """
    for config in configs.values():
        check_admitted(config, study)
    datasets = {name: VolumeDataset.open(config, study.volume) for name, config in configs.items()}
    home: dict[str, str] = {}
    for name, dataset in datasets.items():
        for patient in sorted(set(dataset.patients)):
            if home.setdefault(patient, name) != name:
                raise DuplicatePatientError(
                    f"patient {patient} is at sites {home[patient]} and {name}",
                    "leave each patient to one site: what one person may lose is counted per site",
                )
    return datasets


def source_of(datasets: Mapping[str, VolumeDataset]) -> dict[str, Any]:
    """Return what a run's record says of its data: each site's digest, and that of every image."""
    return {
        "sites": {name: dataset.digest for name, dataset in sorted(datasets.items())},
        "images": sorted({digest for dataset in datasets.values() for digest in dataset.image_digests}),
    }


def simulate(configs: Mapping[str, SiteConfig], run: RunFolder, workers: Workers) -> None:
    """Run or resume the study of ``run`` to its end.

    Raises:
        FedvoxError: What stopped the run.
    """
    import ray  # a second that only a simulation needs
    from flwr.simulation import run_simulation

    for name, config in configs.items():
        folder = run.sites / name
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)
        write_text_atomic(folder / "site.yaml", text)
    surroundings = QUIET | {
        server.app.RUN_FOLDER_VARIABLE: str(run.path.resolve()),
        client.simulated_desk.STUDY_VARIABLE: str(run.study_file.resolve()),
        client.simulated_desk.SIMULATED_SITES_VARIABLE: str(run.sites.resolve()),
    }
    with _environment(surroundings), _flower_log_in(run.path / "flower.log"):
        try:
            run_simulation(
                server_app=server.app.app,
                client_app=client.app.app,
                num_supernodes=len(configs),
                backend_config={
                    "init_args": {
                        "num_cpus": workers.count,
                        "num_gpus": _num_gpus(configs),
                        "log_to_driver": False,
                        "logging_level": "error",
                    },
                    "client_resources": {"num_cpus": 1, "num_gpus": _num_gpus(configs) / workers.count},
                },
            )
        except FedvoxError:
            raise
        except RuntimeError as error:
            raise FedvoxError(f"the simulation stopped: {error}", f"see {run.path / 'flower.log'}") from None
        finally:
            ray.shutdown()


def _num_gpus(configs: Mapping[str, SiteConfig]) -> int:
    return int(any(config.compute.device.startswith("cuda") for config in configs.values()))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block; Ray's workers inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _flower_log_in(path: Path) -> Iterator[None]:
    """Send Flower's log to a file for the block, so that the terminal shows the run's progress."""
    logger = logging.getLogger("flwr")
    handlers, level = list(logger.handlers), logger.level
    file_handler = logging.FileHandler(path)
    file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers = [file_handler]
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
        file_handler.close()
