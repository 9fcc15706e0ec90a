"""After the last round: synthetic volumes, metrics, montages, TensorBoard and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from client.dataset import VolumeDataset
from client.site_config import Selection, SiteConfig
from common.artifact import write_text_atomic
from experiments.evaluation import evaluate_reconstruction, evaluate_synthetic, real_sets, reconstruct
from experiments.label_metrics import compare_labels, evaluate_rebuilt_labels
from experiments.montage import montage
from experiments.report.data import Chapter, Picture, ReportData
from experiments.report.history import RunHistory
from experiments.report.page import render_report
from experiments.report.tensorboard import write_tensorboard
from experiments.run_study import PreparedRun
from experiments.study_file import SimulationPlan
from experiments.synthetic_set import (
    make_synthetic_set,
    read_synthetic_channels,
    read_synthetic_labels,
)
from server.events import read_events
from server.promise import Books, promise
from server.released_model import ReleasedModel, load_released_model

SHOWN = 3  # volumes per row of the comparison
SIMULATED = "All sites ran on one machine: times and traffic are a simulation's."
SPARSE = "The slices along {} are positions, not samples of a continuum; their spacing is nominal."


def test_datasets(prepared: PreparedRun, plan: SimulationPlan) -> list[VolumeDataset]:
    """Return the patients that no site trained on, site by site; empty without a split's test part."""
    if plan.split is None or "test" in plan.parts:
        return []
    return [
        VolumeDataset.open(
            SiteConfig(
                name=name,
                data=config.data,
                patients=plan.split,
                select=Selection(site=name, part=("test",)),
                state=prepared.run.path / "test" / name,
            ),
            prepared.study.volume,
        )
        for name, config in prepared.configs.items()
    ]


def finish_run(
    prepared: PreparedRun,
    tests: Sequence[VolumeDataset],
    num_synthetic: int,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    chapters: tuple[Chapter, ...] = (),
) -> dict[str, Any]:
    """Write everything a person looks at into the run's folder and return the metrics.

    Args:
        prepared: A finished run.
        tests: Unseen patients, one dataset per site; without any, training patients are used and the
            report says so.
        num_synthetic: Volumes to make; metrics use at most as many as there are patients.
        seed: Seed of the synthetic set.
        notes: Limits that the report must state.
        chapters: What else it tells.
    """
    run, study = prepared.run, prepared.study
    model = load_released_model(run, torch.device("cpu"))
    training = [VolumeDataset.open(config, study.volume) for config in prepared.configs.values()]
    unseen = bool(tests)
    judged = list(tests) or training
    make_synthetic_set(model, run.synthetic, num_synthetic, seed)
    shown = read_synthetic_channels(run.synthetic, study)
    synthetic = shown[:, : study.volume.num_channels]
    by_site = zip(prepared.configs, judged, strict=True)
    metrics: dict[str, Any] = {
        "reconstruction": {name: evaluate_reconstruction(model.codec, d, study) for name, d in by_site}
    }
    patients = min(sum(d.num_patients for d in group) for group in (training, judged))
    num = min(patients, len(synthetic))
    metrics["synthetic"] = evaluate_synthetic(real_sets(training, judged, num), synthetic, study, seed)
    if study.volume.labels:
        by_site = zip(prepared.configs, judged, strict=True)
        metrics["labels"] = {
            "codec": {name: evaluate_rebuilt_labels(model.codec, d, study) for name, d in by_site},
            "synthetic": compare_labels(read_synthetic_labels(run.synthetic, study), judged, study),
        }
    write_text_atomic(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    pictures = comparison(model, judged, shown, run.path / "montages")
    history = RunHistory.from_events(read_events(run.events))
    write_tensorboard(history, run.path / "tensorboard", pictures)
    kept = [axis for axis, spacing in zip("xyz", study.volume.spacing_mm, strict=True) if spacing == "keep"]
    render_report(
        ReportData(
            study_name=study.name,
            study_digest=study.digest,
            study_yaml=run.study_file.read_text(encoding="utf-8"),
            history=history,
            versions=run.record()["versions"],
            metrics=metrics,
            pictures=pictures,
            site_sizes={
                name: {"patients": d.num_patients, "volumes": len(d.exams)}
                for name, d in zip(prepared.configs, training, strict=True)
            },
            sampler=study.diffusion.model.sampler.model_dump(mode="json"),
            num_synthetic=num_synthetic,
            promise=promise(study, Books.of(run)),
            notes=(
                SIMULATED,
                "Measured on patients that no site trained on."
                if unseen
                else "Measured on training patients: no test part was given.",
                *([SPARSE.format(" and ".join(kept))] if kept else []),
                *notes,
            ),
            chapters=chapters,
        ),
        run.path / "report.html",
    )
    return metrics


def comparison(
    model: ReleasedModel, judged: Sequence[VolumeDataset], synthetic: torch.Tensor, folder: Path
) -> tuple[Picture, ...]:
    """Return the montage of real, reconstructed and synthetic volumes, one of each site first."""
    real = torch.cat([dataset.codec_volumes()[:1] for dataset in judged])[:SHOWN]
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "real": real,
        "reconstructed": reconstruct(model.codec, real),
        "synthetic": synthetic[: len(real)],
    }
    path = montage(rows, folder / "comparison.png", model.study.volume)
    caption = "Real volumes, the same after the codec, and synthetic ones, at one intensity window."
    if model.study.volume.labels:
        caption += " Label maps are outlined; those in the middle are the codec's."
    return (Picture(path, "Real, reconstructed, synthetic", caption),)
