"""`fedvox study run --server`: a study of sites that are connected to this host's server."""

from pathlib import Path

import torch

from cli.console import err, out, print_json
from cli.live import live_view
from common.errors import ConfigError
from common.study import Study
from deploy.study_driver import drive, open_server_run, sealed_manifest
from experiments.overview import run_status
from experiments.synthetic_set import make_synthetic_set
from server.coordinator import Coordinator
from server.released_model import load_released_model

NUM_SYNTHETIC = 32
SET_SEED = 0


def run_on_server(
    study: Study, coordinator: Coordinator, folder: Path, port: int, start_from: Path | None, json: bool
) -> None:
    """Run the coordinator's study to its end, and make volumes with a sealed manifest.

    Raises:
        ConfigError: The study is not the one that the sites' kits were made for.
        RunError: What stopped it.
    """
    if study.digest != coordinator.study.digest:
        raise ConfigError(
            f"the kits were made for study {coordinator.study.digest[:12]}, this is {study.digest[:12]}",
            f"run {coordinator.folder / 'study.yaml'}, or provision the new study in another --home",
        )
    run = open_server_run(coordinator, folder, start_from)
    with live_view(run, study, enabled=not json):
        drive(coordinator, run, port, lambda text: err.print(text, highlight=False))
    make_synthetic_set(load_released_model(run, torch.device("cpu")), run.synthetic, NUM_SYNTHETIC, SET_SEED)
    seal = sealed_manifest(run.synthetic / "manifest.json", coordinator.key)
    if json:
        print_json(run_status(folder))
    else:
        out.print(
            f"finished: {NUM_SYNTHETIC} volumes, manifest and {seal.name} in {run.synthetic}", highlight=False
        )
