"""What a study means in numbers, what the sites bring, and how far a run is."""

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from client.private_tasks import private_task
from client.site_config import Compute
from common.artifact import read_snapshot
from common.federation.seeds import seeded_generator
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.privacy.patient_gradients import trainable
from common.privacy.summary import noise_to_signal
from common.study import Study
from common.study_networks import shaped_denoiser
from experiments.simulate import check_sites, site_configs
from experiments.study_file import SimulationPlan
from server.checkpoint import CheckpointStore
from server.events import read_events
from server.initial import initial_codec
from server.participation import Participation
from server.promise import rounded_up
from server.round_board import in_words
from server.run_folder import RunFolder
from server.state import GlobalState, is_finished

FLOAT_BYTES = 4


def study_overview(study: Study) -> dict[str, Any]:
    """Return sizes that follow from the study alone: latents, parameters, traffic, steps."""
    state = _sizes(study)
    codec_parameters = sum(tensor.numel() for tensor in state.frozen_codec.values())
    codec_traffic = sum(tensor.numel() for tensor in state.codec.values()) * FLOAT_BYTES
    denoiser = sum(tensor.numel() for tensor in state.released_denoiser.values())
    trained = sum(tensor.numel() for tensor in state.denoiser.values())
    return {
        "digest": study.digest,
        "volume": " x ".join(map(str, study.volume.shape)) + f" x {study.volume.num_channels} channels",
        "label maps": ", ".join(one.name for one in study.volume.labels) or "not part of the study",
        "latent": " x ".join(map(str, study.latent_shape)) + f" x {study.codec.model.code_dim} channels",
        "codec parameters": codec_parameters,
        "denoiser parameters": denoiser,
        "codec MB per round, site and direction": round(codec_traffic / 1e6, 2),
        "diffusion MB per round, site and direction": round(trained * FLOAT_BYTES / 1e6, 2),
        **_promise(study),
        "codec steps": study.codec.training.total_steps,
        "diffusion steps": study.diffusion.training.total_steps,
        "sites": ", ".join(study.federation.sites),
    }


def _sizes(study: Study) -> GlobalState:
    """Return a state of untrained networks with the study's shapes."""
    codec = initial_codec(study, seeded_generator(study.seed, "shape only"))
    denoiser = shaped_denoiser(study)
    trained = trainable(denoiser)
    frozen = {name: p.detach() for name, p in denoiser.named_parameters() if not p.requires_grad}
    return GlobalState(
        Stage.DIFFUSION, 0, codec=codec, denoiser=trained, denoiser_average=trained, denoiser_frozen=frozen
    )


def _promise(study: Study) -> dict[str, Any]:
    """Return what a private study promises; nothing without one."""
    if study.privacy is None:
        return {}
    facts: dict[str, Any] = {
        "epsilon, rounds and spare rounds": rounded_up(epsilon(study.private_events, study.privacy.delta)),
        "delta": study.privacy.delta,
        "public model": study.privacy.public_model,
    }
    for stage, plan in study.private_plans.items():
        network, _ = private_task(study, stage).example()
        trained = sum(parameter.numel() for parameter in trainable(network).values())
        noise = noise_to_signal(plan, trained, len(study.federation.sites))
        facts |= {
            f"{stage.value}: trained parameters": trained,
            f"{stage.value}: noise to signal of a step": round(noise.per_step, 3),
            f"{stage.value}: rounds that may be lost": plan.spare_rounds,
        }
    return facts


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
        f"{event['event']}: site {event.get('site', 'any')} {event.get('code', event.get('reason', ''))}"
        for event in events
        if event["event"] in {"site_failed", "site_missing", "report_rejected", "budget_spent"}
    ]
    sites = {}
    for path in sorted(run.sites.glob("*/progress.json")):
        sites[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    finished = state is not None and is_finished(state, study)
    board = {} if finished else read_snapshot(run.board)
    return {
        "study": study.name,
        "model": state.model_digest if state is not None and state.stage is Stage.DIFFUSION else "none yet",
        "digest": study.digest,
        "state": "finished" if finished else "not started" if state is None else "unfinished",
        "stage": state.stage.value if state else "codec",
        "round": state.round_index if state else 0,
        "rounds": {
            "codec": study.codec.training.rounds,
            "diffusion": study.diffusion.training.rounds,
        },
        "seconds": round(sum(e["seconds"] for e in events if e["event"] == "round_finished"), 1),
        "seconds_left": None if finished else seconds_left(study, events),
        "bytes": sum(e["bytes_up"] + e["bytes_down"] for e in events if e["event"] == "round_finished"),
        "sites": sites,
        "round_at_hand": board,
        "went_on_without": Participation.from_events(study, events).lost,
        "standing": in_words(board, time.time()),
        "problems": problems,
    }


def seconds_left(study: Study, events: Iterable[Mapping[str, Any]]) -> float | None:
    """Return how long the rounds that are left take, if they take as long as those that are finished.

    None before a stage that has rounds left has finished one.
    """
    seconds: dict[Stage, dict[int, float]] = {stage: {} for stage in Stage}
    for event in events:
        if event["event"] == "round_finished":
            seconds[Stage(event["stage"])][int(event["round"])] = float(event["seconds"])
    total = 0.0
    for stage, by_round in seconds.items():
        of_stage = by_round.values()
        left = study.schedule_of(stage).rounds - len(of_stage)
        if left > 0 and not of_stage:
            return None
        total += max(0, left) * sum(of_stage) / max(1, len(of_stage))
    return round(total, 1)
