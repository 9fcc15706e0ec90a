"""One experiment from its plan to its results; a second call goes on where the first stopped."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from common.artifact import OWNER_ONLY
from common.errors import ConfigError, RunError
from experiments.job_board import JobBoard, SomeJob
from experiments.segmentation.analysis import by_site, summary_of
from experiments.segmentation.arms import Bench
from experiments.segmentation.basis import code_of_figures
from experiments.segmentation.cohort import refuse_leakage, refuse_unlabelled
from experiments.segmentation.compared import Compared
from experiments.segmentation.generators import is_trained, model_digest
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
from experiments.segmentation.needs import refuse_other_volumes, refuse_too_few
from experiments.segmentation.plan import SegmentationPlan
from experiments.segmentation.questions import answers_of
from experiments.splits import PARTS
from server.run_folder import versions


def compare_arms(
    bench: Bench,
    workers: int,
    say: Callable[[str], None],
    earlier: Compared | None = None,
    only: Sequence[str] = (),
) -> Compared:
    """Return what an experiment found.

    Args:
        bench: Where, and what. Arms whose generators' runs are not there are left out, and named.
        workers: Processes that do the jobs.
        say: Told what is done.
        earlier: Results of another machine or day, whose arms are taken over.
        only: If given, no other arms are computed here.

    Raises:
        LeakageError: A test patient was seen by a generator, or is among those of another part.
        ConfigError: No arm but scratch is left, an arm is not in the plan, a generator makes other volumes,
            or the earlier results are not of this experiment, or of other volumes of an arm.
        RunError: The code was changed while it ran.
        DataError: A test patient has no voxel of any class, or there are fewer patients than the plan wants.
    """
    bench.folder.mkdir(parents=True, exist_ok=True)
    bench.folder.chmod(OWNER_ONLY)  # it holds preprocessed patients
    basis, code = bench.basis, code_of_figures()
    taken = None if earlier is None else earlier.of_arms(bench.plan, basis)
    known = {} if taken is None else taken.results["arms"]
    without_volumes = [name for name in bench.missing if name not in known]
    missing = [*without_volumes, *_not_asked_for(bench.plan, only, {*known, *without_volumes})]
    plan = bench.plan.without(missing)
    if not plan.arms or ([arm.name for arm in plan.arms] == [SCRATCH] and not only):
        raise ConfigError(
            f"no run of {bench.runs} is there, for any arm of {plan.name}", "train the generators"
        )
    for name in without_volumes:
        arm = bench.plan.arm(name)
        say(f"{name}: missing, or not trained to the end: {bench.runs / (arm.run or arm.folder or '')}")
    for name in known:
        say(f"{name}: taken from earlier results")
    here = replace(bench, plan=plan.without(list(known)))
    facts = known | {arm.name: bench.facts_of(arm) for arm in here.plan.arms}
    _refuse_two_trainings(plan, facts)
    _refuse_older_training(bench, known)
    figures, seconds = _computed(here, workers, say)
    if code_of_figures() != code:  # processes that began late ran what was not there at the start
        raise RunError(
            f"{plan.name}: the code was changed while it ran",
            f"take {here.work} away, and run it again from a copy that nobody edits",
        )
    for arm in here.plan.arms:
        facts[arm.name]["core_hours"] = round(seconds[arm.name] / 3600, 3)
    if taken is not None:
        figures = [*taken.figures, *figures]
    labels = summary_of(bench.plan, figures)
    results = {
        "experiment": plan.name,
        "command": f"fedvox experiment run {plan.name}",
        "basis": basis,
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
        "real_volumes": len(bench.cohort("generator").patients),
        "labelled_patients": len(set(bench.cohort("labelled").patients)),
        "test_patients": len(_sites_of(bench)),
        "missing_arms": missing,
        "arms": {arm.name: facts[arm.name] for arm in plan.arms},
        "questions": answers_of(plan, labels),
        "labels": labels,
        "sites": by_site(plan, figures, _sites_of(bench)),
        "versions": versions(),
        "code": code,
        "core_hours": round(sum(facts[arm.name]["core_hours"] for arm in plan.arms), 2),
    }
    return Compared(results, figures)


def _not_asked_for(plan: SegmentationPlan, only: Sequence[str], known: Collection[str]) -> list[str]:
    names = [arm.name for arm in plan.arms]
    for name in only:
        if name not in names:
            raise ConfigError(f"{plan.name} has no arm {name}", f"its arms: {', '.join(names)}")
    return [name for name in names if only and name not in only and name not in known]


def _refuse_two_trainings(plan: SegmentationPlan, facts: Mapping[str, Any]) -> None:
    """Return if all arms of a run are of one model: a difference between them is else one of trainings."""
    first: dict[str, tuple[str, str]] = {}
    for arm in plan.arms:
        if arm.run is None:
            continue
        model = facts[arm.name]["generator"]["model"]
        name, other = first.setdefault(arm.run, (arm.name, model))
        if model != other:
            raise ConfigError(
                f"{name} and {arm.name} are of two trainings of the generator {arm.run}",
                "compute both where one of them lies",
            )


def _refuse_older_training(bench: Bench, known: Mapping[str, Any]) -> None:
    """Return if arms that were taken over are of the generators and folders that lie here, if they do."""
    for name, facts in known.items():
        arm = bench.plan.arm(name)
        run = bench.run_of(arm)
        is_here = arm.name not in bench.missing
        if is_here and arm.folder is not None and bench.facts_of(arm)["folder"] != facts.get("folder"):
            raise ConfigError(
                f"{name}: the earlier results are of other volumes than those in {bench.runs / arm.folder}",
                "compute it here, or take that folder away",
            )
        if run is not None and is_trained(run) and model_digest(run) != facts["generator"]["model"]:
            raise ConfigError(
                f"{name}: the earlier results are of another training than {run}",
                "compute it here, or take that run away",
            )


def _sites_of(bench: Bench) -> list[str]:
    """Return the site of each test patient, in the order of the figures' scores."""
    datasets = zip(bench.study.federation.sites, bench.cohort("test").datasets, strict=True)
    site_of = {patient: site for site, dataset in datasets for patient in dataset.patients}
    return [site_of[patient] for patient in sorted(site_of)]


def _computed(
    bench: Bench, workers: int, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], Mapping[str, float]]:
    """Return figures of each fine-tuning, and the seconds that the jobs of each arm took."""
    plan = bench.plan
    runs = {arm.name: run for arm in plan.arms if (run := bench.run_of(arm)) is not None}
    *others, test = (bench.cohort(part) for part in PARTS)
    folders = [folder for arm in plan.arms if (folder := bench.folder_of(arm)) is not None]
    refuse_leakage(test, [*others, *folders], runs, allowed=bench.cohort("generator"))
    refuse_unlabelled(test)
    refuse_other_volumes(bench)
    refuse_too_few(bench)

    def done(kind: str, jobs: Sequence[SomeJob], work: Work[SomeJob]) -> list[dict[str, Any]]:
        return JobBoard(bench.work / "jobs" / kind, workers, say).run(
            jobs, partial(timed, work=work, bench=bench)
        )

    made = done("synthesis", syntheses(bench), synthesize_one)
    trained = done("pretraining", pretrainings(bench), pretrain_one)
    figures = done("fine-tuning", fine_tunings(bench), fine_tune_one)
    seconds: dict[str, float] = defaultdict(float)
    for job in (*made, *trained, *figures):
        seconds[job["arm"]] += job["seconds"]
    return figures, seconds
