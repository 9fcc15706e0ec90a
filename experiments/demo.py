"""The demo: three phantom hospitals, one generator, volumes, what they are good for, and a report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.frozen import load_yaml, parse
from common.study import Study
from experiments.demo_patients import write_demo_patients
from experiments.finish_run import finish_run, test_datasets
from experiments.report.data import Chapter, Picture
from experiments.run_study import PreparedRun, open_run
from experiments.segmentation.plot import plot_segmentation
from experiments.segmentation.table import limits, segmentation_tables, setting
from experiments.study_file import SimulationPlan

CONFIGS = Path(__file__).parent / "configs"
STUDY_FILE, SEGMENTATION_FILE = CONFIGS / "demo.yaml", CONFIGS / "segmentation-demo.yaml"
NUM_SYNTHETIC = 24
TINY_TRAINING = {"rounds": 2, "local_steps": 3, "batch_size": 2}
WHAT_WAS_DONE = (
    "A network that marks glandular tissue learned, without labels, to mend synthetic volumes of the model "
    "above; then two patients with labels taught it the rest. Beside it: the same network from scratch, and "
    "after the same work on noise."
)
NOTE = "The patients are procedural phantoms: nothing here says how well a model does on people."


@dataclass(frozen=True)
class Demo:
    """One demo.

    Attributes:
        runs: Folder that holds all runs.
        tiny: Whether it is the version of a minute.
    """

    runs: Path
    tiny: bool

    def open(self) -> PreparedRun:
        """Write the phantom hospitals and open the demo's run, new or interrupted."""
        split = write_demo_patients(self._data, self.tiny)
        plan = SimulationPlan(split=split)
        return open_run(self._study(), plan, self._data, self.runs / self._named("demo"))

    def segment(self, prepared: PreparedRun, say: Callable[[str], None]) -> dict[str, Any]:
        """Return what pretraining on the finished run's volumes is worth where two patients have labels."""
        # Networks, losses and measures of MONAI: seconds that training the generator does not need.
        from experiments.segmentation.arms import Bench
        from experiments.segmentation.compare import compare_arms
        from experiments.segmentation.plan import load_plan

        plan = load_plan(SEGMENTATION_FILE).with_run(prepared.run.path.name)
        bench = Bench(
            plan=plan.smoke() if self.tiny else plan,
            study=prepared.study,
            split=self._split(prepared),
            data=self._data,
            runs=self.runs,
            folder=prepared.run.path / "segmentation",
            device=torch.device("cpu"),
        )
        return compare_arms(bench, workers=2, say=say).results

    def finish(self, prepared: PreparedRun, segmentation: dict[str, Any]) -> dict[str, Any]:
        """Measure the finished run on phantoms that no hospital trained on, and write the report."""
        tests = test_datasets(prepared, SimulationPlan(split=self._split(prepared)))
        plot = prepared.run.path / "segmentation" / "gains.png"
        plot_segmentation(segmentation, plot)
        chapter = Chapter(
            "What the volumes are good for: segmentation with few labels",
            (WHAT_WAS_DONE, setting(segmentation), *limits(segmentation)),
            tuple(segmentation_tables(segmentation)),
            Picture(plot, "Gain in Dice", "Dice of each arm minus that from scratch, with 95 % intervals."),
        )
        return finish_run(prepared, tests, NUM_SYNTHETIC, notes=(NOTE,), chapters=(chapter,))

    @property
    def _data(self) -> Path:
        return self.runs / self._named("demo-hospitals")

    def _named(self, base: str) -> str:
        return f"{base}-tiny" if self.tiny else base

    def _split(self, prepared: PreparedRun) -> Path:
        return next(config.patients for config in prepared.configs.values() if config.patients is not None)

    def _study(self) -> Study:
        content = load_yaml(STUDY_FILE)
        content.pop("simulation")
        if self.tiny:
            for stage in ("codec", "diffusion"):
                content[stage]["training"] |= TINY_TRAINING
            content["diffusion"]["model"]["denoiser"] = {"channels": [8, 32], "attention": [False, False]}
            content["diffusion"]["model"]["sampler"] = {"kind": "euler", "num_steps": 2}
        return parse(Study, content, where=str(STUDY_FILE))
