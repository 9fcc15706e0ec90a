"""One experiment from its plan to its results; a second call goes on where the first stopped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common.artifact import write_text_atomic
from common.errors import ConfigError
from experiments.job_board import JobBoard, SomeJob
from experiments.segmentation.analysis import summary_of
from experiments.segmentation.arms import Bench
from experiments.segmentation.cohort import refuse_leakage, refuse_unlabelled
from experiments.segmentation.jobs import (
    Work,
    fine_tune_one,
    fine_tunings,
    pretrain_one,
    pretrainings,
    syntheses,
    synthesize_one,
    timed,
)
from experiments.segmentation.names import SCRATCH
from experiments.splits import PARTS
from server.run_folder import versions


@dataclass(frozen=True)
class Compared:
    """An experiment that ran to its end.

    Attributes:
        results: What tables and plots show.
        figures: Of every fine-tuning: its arm, seeds, and scores by test patient, who have no names.
    """

    results: dict[str, Any]
    figures: list[dict[str, Any]]

    def write(self, folder: Path, name: str) -> None:
        """Write results as ``NAME.json``, and figures as ``NAME.jsonl``, one fine-tuning a line."""
        folder.mkdir(parents=True, exist_ok=True)
        results = json.dumps(self.results, indent=1)  # arms stay in the order of their plan
        write_text_atomic(folder / f"{name}.json", results + "\n")
        lines = (json.dumps(one, sort_keys=True) + "\n" for one in self.figures)
        write_text_atomic(folder / f"{name}.jsonl", "".join(lines))


def compare_arms(bench: Bench, workers: int, say: Callable[[str], None]) -> Compared:
    """Return what an experiment found.

    Args:
        bench: Where, and what. Arms whose generators' runs are not there are left out, and named.
        workers: Processes that do the jobs.
        say: Told what is done.

    Raises:
        LeakageError: A test patient was seen by a generator, or is among those of another part.
        ConfigError: No arm but scratch is left.
        DataError: A test patient has no voxel of any class.
    """
    missing = bench.missing
    plan = bench.plan.without(missing)
    if [arm.name for arm in plan.arms] == [SCRATCH]:
        raise ConfigError(
            f"no run of {bench.runs} is there, for any arm of {plan.name}", "train the generators"
        )
    for name in missing:
        arm = bench.plan.arm(name)
        say(f"{name}: missing, or not trained to the end: {bench.runs / (arm.run or arm.folder or '')}")
    bench = replace(bench, plan=plan)
    runs = {arm.name: run for arm in plan.arms if (run := bench.run_of(arm)) is not None}
    *others, test = (bench.cohort(part) for part in PARTS)
    folders = [folder for arm in plan.arms if (folder := bench.folder_of(arm)) is not None]
    refuse_leakage(test, [*others, *folders], runs)
    refuse_unlabelled(test)

    def done(kind: str, jobs: Sequence[SomeJob], work: Work[SomeJob]) -> list[dict[str, Any]]:
        return JobBoard(bench.work / "jobs" / kind, workers, say).run(
            jobs, partial(timed, work=work, bench=bench)
        )

    made = done("synthesis", syntheses(bench), synthesize_one)
    trained = done("pretraining", pretrainings(bench), pretrain_one)
    figures = done("fine-tuning", fine_tunings(bench), fine_tune_one)
    results = {
        "experiment": plan.name,
        "command": f"fedvox experiment run {plan.name}",
        "classes": [one.name for one in plan.classes],
        "standing": plan.standing,
        "weak_labels": plan.weak_labels,
        "network": plan.network.model_dump(),
        "steps": {"pretraining": plan.pretraining.steps, "fine_tuning": plan.fine_tuning.steps},
        "seeds": {
            "pretraining": plan.pretraining_seeds,
            "sampling": plan.sampling_seeds,
            "fine_tuning": plan.seeds,
            "fine_tuning_of_others": plan.secondary_seeds,
        },
        "test_patients": len(set(test.patients)),
        "missing_arms": missing,
        "arms": {arm.name: bench.facts_of(arm) for arm in plan.arms},
        "labels": summary_of(plan, figures),
        "versions": versions(),
        "code": bench.code,
        "core_hours": round(sum(job["seconds"] for job in [*made, *trained, *figures]) / 3600, 2),
    }
    return Compared(results, figures)
