"""One experiment from its plan to its results; a second call goes on where the first stopped."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from common.errors import ConfigError
from experiments.job_board import JobBoard
from experiments.segmentation.analysis import summary_of
from experiments.segmentation.arms import Bench
from experiments.segmentation.cohort import refuse_leakage
from experiments.segmentation.jobs import fine_tune_one, fine_tunings, pretrain_one, pretrainings
from experiments.segmentation.plan import SCRATCH
from server.run_folder import versions


def compare_arms(bench: Bench, workers: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the results of an experiment.

    Args:
        bench: Where, and what. Arms whose generators' runs are not there are left out, and named.
        workers: Processes that do the jobs.
        say: Told what is done.

    Raises:
        LeakageError: A test patient was seen by a generator, or is among those of another part.
        ConfigError: No arm but scratch is left.
    """
    started = time.monotonic()
    missing = bench.missing
    plan = bench.plan.without(missing)
    if [arm.name for arm in plan.arms] == [SCRATCH]:
        raise ConfigError(
            f"no run of {bench.runs} is there, for any arm of {plan.name}", "train the generators"
        )
    for name in missing:
        say(f"{name}: its run is missing: {bench.run_of(bench.plan.arm(name))}")
    bench = replace(bench, plan=plan, folder=bench.folder / plan.key)
    runs = {arm.name: run for arm in plan.arms if (run := bench.run_of(arm)) is not None}
    parts = [bench.cohort(part) for part in ("generator", "labelled", "validation")]
    test = bench.cohort("test")
    refuse_leakage(test, parts, runs)
    pretraining, tuning = (
        JobBoard(bench.folder / "jobs" / kind, workers, say) for kind in ("pretraining", "fine-tuning")
    )
    pretraining.run(pretrainings(plan), partial(pretrain_one, bench=bench))
    figures = tuning.run(fine_tunings(plan), partial(fine_tune_one, bench=bench))
    return {
        "experiment": plan.name,
        "command": f"fedvox experiment run {plan.name}",
        "classes": list(plan.classes),
        "weak_labels": plan.weak_labels,
        "network": plan.network.model_dump(),
        "steps": {"pretraining": plan.pretraining.steps, "fine_tuning": plan.fine_tuning.steps},
        "volumes": plan.num_volumes,
        "seeds": {
            "pretraining": plan.pretraining_seeds,
            "sampling": plan.sampling_seeds,
            "fine_tuning": plan.seeds,
        },
        "test_patients": len(set(test.patients)),
        "missing_arms": missing,
        "labels": summary_of(plan, figures),
        "versions": versions(),
        "seconds_of_this_call": round(time.monotonic() - started),
    }
