"""Evaluate a run on a folder of real volumes."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from client.dataset import VolumeDataset
from client.site_config import Selection, SiteConfig, load_site_config
from common.errors import RunError
from common.study import Study
from experiments.evaluation import evaluate_reconstruction, evaluate_synthetic, real_sets
from experiments.synthetic_set import read_synthetic
from server.checkpoint import CheckpointStore
from server.released_model import load_codec
from server.run_folder import RunFolder


def evaluate_run(
    run_folder: Path,
    data: Path,
    synthetic: Path | None,
    *,
    patients: Path | None = None,
    part: str | None = None,
    site: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return reconstruction metrics, and synthetic metrics if a synthetic folder is given.

    Args:
        run_folder: The run.
        data: Real volumes of the study's spec.
        synthetic: Synthetic volumes, or None.
        patients: Patient table of ``data``.
        part: Part of that table.
        site: Site of that table.
        device: Where to compute.

    Raises:
        DataError: A volume is not what the study needs.
        RunError: The run has no checkpoint yet.
    """
    run = RunFolder.open(run_folder)
    study = run.study()
    state = CheckpointStore(run.checkpoints, study.digest).load_newest()
    if state is None:
        raise RunError(f"{run_folder} has no finished round yet", "run it first")
    table = patients or (data / "patients.csv" if (data / "patients.csv").is_file() else None)
    chosen = Selection(site=site, part=(part,) if part else None) if site or part else None
    with tempfile.TemporaryDirectory() as cache:
        config = SiteConfig(name="evaluation", data=data, patients=table, select=chosen, state=Path(cache))
        test = VolumeDataset.open(config, study.volume)
        result: dict[str, Any] = {
            "study": study.name,
            "config_sha256": study.digest,
            "reconstruction": evaluate_reconstruction(
                load_codec(study, state, torch.device(device)), test, study
            ),
        }
        if synthetic is not None:
            volumes = read_synthetic(synthetic, study)
            training = training_datasets(run, study)
            num = min(len(volumes), test.num_patients, sum(d.num_patients for d in training))
            result["synthetic"] = evaluate_synthetic(real_sets(training, [test], num), volumes, study)
        return result


def training_datasets(run: RunFolder, study: Study) -> list[VolumeDataset]:
    """Return the datasets that a simulated run was trained on.

    Raises:
        RunError: The run was no simulation: the training volumes are at the hospitals.
    """
    files = sorted(run.sites.glob("*/site.yaml"))
    if not files:
        raise RunError(f"{run.path} holds no simulated sites", "synthetic metrics need training volumes")
    return [VolumeDataset.open(load_site_config(file), study.volume) for file in files]
