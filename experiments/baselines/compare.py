"""The comparison of one study: train every arm, measure, and write one JSON file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.site_config import Compute
from common.artifact import write_text_atomic
from common.errors import ConfigError
from experiments.baselines.arms import arms_of
from experiments.baselines.measure import (
    generation_of,
    mmd_difference,
    psnr_differences,
    reconstruction_of,
    site_table,
    synthetic_of,
    test_datasets,
)
from experiments.baselines.train import TrainedArm, train_arm
from experiments.evaluation import real_sets
from experiments.simulate import check_sites
from experiments.study_file import load_study_file
from server.events import read_events
from server.run_folder import versions

SNAPPED = "federated-snapped"  # the same latents, each replaced by its nearest codes before decoding


def compare(
    study_file: Path, data: Path, folder: Path, compute: Compute, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the comparison for one study file; a second call goes on where the first stopped.

    Args:
        study_file: The federated study, with a split in its simulation block.
        data: Folder of volumes.
        folder: Where the arms' runs lie.
        compute: Device and threads.
        say: Told what is being done.
    """
    study, plan = load_study_file(study_file)
    if plan.split is None or "test" in plan.parts:
        raise ConfigError(
            f"{study_file}: the simulation has no split, or trains on its test part",
            "give simulation.split, and simulation.parts without test",
        )
    arms = arms_of(study, plan.parts)
    trained: dict[str, TrainedArm] = {}
    seconds: dict[str, float] = {}
    for arm in arms:
        say(f"{study.name}: training {arm.name}")
        trained[arm.name] = train_arm(arm, data, plan.split, folder / arm.name, compute)
        seconds[arm.name] = _training_seconds(trained[arm.name].run.events)
    tests = test_datasets(study, data, plan.split, folder)
    say(f"{study.name}: reconstructing test patients")
    rebuilt = {name: reconstruction_of(one, tests, compute) for name, one in trained.items()}
    training = list(
        check_sites(study, arms[0].site_configs(data, plan.split, folder / "federated", compute)).values()
    )
    num = min(sum(d.num_patients for d in tests.values()), sum(d.num_patients for d in training))
    real = real_sets(training, list(tests.values()), num)
    say(f"{study.name}: sampling {num} volumes from every arm")
    synthetic = {name: synthetic_of(one, num, compute, snap=False) for name, one in trained.items()}
    synthetic[SNAPPED] = synthetic_of(trained["federated"], num, compute, snap=True)
    local = [name for name in trained if name.startswith("local-")]
    sites = list(study.federation.sites)
    return {
        "study": study.name,
        "command": f"fedvox experiment run baselines --study {study_file.stem}",
        "config_sha256": study.digest,
        "training_seed": study.seed,
        "steps": {
            "codec": study.codec.training.total_steps,
            "diffusion": study.diffusion.training.total_steps,
        },
        "test_patients": {site: dataset.num_patients for site, dataset in tests.items()},
        "seconds": seconds,
        "versions": versions(),
        "reconstruction": {
            name: {metric: site_table(values) for metric, values in metrics.items()}
            for name, metrics in rebuilt.items()
        },
        "psnr_federated_minus": {
            **{
                name: psnr_differences(rebuilt["federated"]["psnr"], rebuilt[name]["psnr"], sites)
                for name in trained
                if name.startswith("pooled")
            },
            **{
                name: psnr_differences(
                    rebuilt["federated"]["psnr"],
                    rebuilt[name]["psnr"],
                    [site for site in sites if site != name.removeprefix("local-")],
                )
                for name in local
            },
        },
        "generation": {name: generation_of(volumes, real, study) for name, volumes in synthetic.items()},
        "mmd_federated_minus": {
            name: mmd_difference(synthetic["federated"], synthetic[name], real)
            for name in synthetic
            if name != "federated"
        },
    }


def _training_seconds(events: Path) -> float:
    finished = (event for event in read_events(events) if event["event"] == "round_finished")
    return round(sum(event["seconds"] for event in finished), 1)


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write one study's comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(results, indent=1, sort_keys=True) + "\n")
