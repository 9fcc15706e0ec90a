"""The demo: three phantom hospitals, one generator, volumes, metrics and a report."""

from pathlib import Path
from typing import Any

from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.frozen import load_yaml, parse
from common.study import Study
from experiments.finish_run import finish_run
from experiments.phantom.hospital import HOSPITALS
from experiments.phantom.writer import write_hospital
from experiments.run_study import PreparedRun, open_run
from experiments.study_file import SimulationPlan

STUDY_FILE = Path(__file__).parent / "configs" / "demo.yaml"
TRAINING_SEED, UNSEEN_SEED = 0, 2  # the phantoms of seed 1 served to choose the denoiser's settings
NUM_UNSEEN = 8  # patients of each hospital that nobody trains on
NUM_SYNTHETIC = 24
TINY_PATIENTS = 4
TINY_TRAINING = {"rounds": 2, "local_steps": 3, "batch_size": 2}
NOTE = "The patients are procedural phantoms: nothing here says how well a model does on people."


def demo_run(runs: Path, tiny: bool = False) -> PreparedRun:
    """Write the phantom hospitals and open the demo's run, new or interrupted."""
    data = runs / _name("demo-hospitals", tiny)
    for hospital in HOSPITALS:
        size = TINY_PATIENTS if tiny else hospital.num_patients
        sized = hospital.model_copy(update={"num_patients": size})
        write_hospital(sized, data / hospital.name, TRAINING_SEED)
    return open_run(_study(tiny), SimulationPlan(), data, runs / _name("demo", tiny))


def finish_demo(prepared: PreparedRun, runs: Path) -> dict[str, Any]:
    """Measure the finished run on phantoms that no hospital trained on, and write the report."""
    tests = []
    for hospital in HOSPITALS:
        unseen = hospital.model_copy(update={"num_patients": NUM_UNSEEN})
        folder = runs / "demo-unseen" / hospital.name
        write_hospital(unseen, folder, UNSEEN_SEED)
        config = SiteConfig(
            name=hospital.name,
            data=folder,
            patients=folder / "patients.csv",
            state=prepared.run.path / "test" / hospital.name,
        )
        tests.append(VolumeDataset.open(config, prepared.study.volume))
    return finish_run(prepared, tests, NUM_SYNTHETIC, notes=(NOTE,))


def _study(tiny: bool) -> Study:
    content = load_yaml(STUDY_FILE)
    if tiny:
        for stage in ("codec", "diffusion"):
            content[stage]["training"] |= TINY_TRAINING
        content["diffusion"]["model"]["denoiser"] = {"channels": [8, 32], "attention": [False, False]}
        content["diffusion"]["model"]["sampler"] = {"kind": "euler", "num_steps": 2}
    return parse(Study, content, where=str(STUDY_FILE))


def _name(base: str, tiny: bool) -> str:
    return f"{base}-tiny" if tiny else base
