"""What a study means in numbers, what the sites bring, and how far a run is."""

import json
import tempfile
from pathlib import Path
from typing import Any

from client.site_config import Compute
from common.study import Study
from experiments.report.events import read_events
from experiments.simulate import check_sites, site_configs
from experiments.study_file import SimulationPlan
from server.checkpoint import CheckpointStore
from server.run_folder import RunFolder
from server.state import initial_state, is_finished, start_diffusion

FLOAT_BYTES = 4


def study_overview(study: Study) -> dict[str, Any]:
    """Return sizes that follow from the study alone: latents, parameters, traffic, steps."""
    state = initial_state(study)
    codec_parameters = sum(tensor.numel() for tensor in state.frozen_codec.values())
    codec_traffic = sum(tensor.numel() for tensor in state.codec.values()) * FLOAT_BYTES
    denoiser = sum(tensor.numel() for tensor in start_diffusion(state, study).denoiser.values())
    return {
        "digest": study.digest,
        "volume": " x ".join(map(str, study.volume.shape)) + f" x {study.volume.num_channels} channels",
        "latent": " x ".join(map(str, study.latent_shape)) + f" x {study.codec.model.code_dim} channels",
        "codec parameters": codec_parameters,
        "denoiser parameters": denoiser,
        "codec MB per round, site and direction": round(codec_traffic / 1e6, 2),
        "diffusion MB per round, site and direction": round(denoiser * FLOAT_BYTES / 1e6, 2),
        "codec steps": study.codec.training.total_steps,
        "diffusion steps": study.diffusion.training.total_steps,
        "sites": ", ".join(study.federation.sites),
    }


def data_overview(study: Study, plan: SimulationPlan, data: Path) -> dict[str, dict[str, Any]]:
    """Return what each site would bring, after reading and checking every volume.

    Raises:
        DataError: A file is not what the study needs.
    """
    with tempfile.TemporaryDirectory() as caches:
        configs = site_configs(study, plan, data, Path(caches), Compute())
        return {
            name: {"patients": dataset.num_patients, "volumes": len(dataset.exams)}
            for name, dataset in check_sites(study, configs).items()
        }


def run_status(folder: Path) -> dict[str, Any]:
    """Return how far a run is, what each site last did, and what failed.

    Raises:
        RunError: There is no run in ``folder``.
    """
    run = RunFolder.open(folder)
    study = run.study()
    state = CheckpointStore(run.checkpoints, study.digest).load_newest()
    events = list(read_events(run.events))
    problems = [
        f"{event['event']}: site {event['site']} {event.get('code', event.get('reason', ''))}".rstrip()
        for event in events
        if event["event"] in {"site_failed", "site_missing", "report_rejected"}
    ]
    sites = {}
    for path in sorted(run.sites.glob("*/progress.json")):
        sites[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    finished = state is not None and is_finished(state, study)
    return {
        "study": study.name,
        "digest": study.digest,
        "state": "finished" if finished else "not started" if state is None else "unfinished",
        "stage": state.stage.value if state else "codec",
        "round": state.round_index if state else 0,
        "rounds": {
            "codec": study.codec.training.rounds,
            "diffusion": study.diffusion.training.rounds,
        },
        "seconds": round(sum(e["seconds"] for e in events if e["event"] == "round_finished"), 1),
        "bytes": sum(e["bytes_up"] + e["bytes_down"] for e in events if e["event"] == "round_finished"),
        "sites": sites,
        "problems": problems,
    }
