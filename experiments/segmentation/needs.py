"""What a plan needs of patients and generators, asked before hours are spent."""

from common.errors import ConfigError, DataError
from common.volume.spec import VolumeSpec
from experiments.segmentation.arms import Bench
from server.run_folder import RunFolder


def refuse_other_volumes(bench: Bench) -> None:
    """Return if every generator makes volumes like the study's; label maps may come with them.

    Raises:
        ConfigError: Shape, spacing, channels or intensities of one are others.
    """
    made = {arm.name: RunFolder.open(run).study() for arm in bench.plan.arms if (run := bench.run_of(arm))}
    if bench.labelled_study is not None:
        made["labelled_study"] = bench.labelled_study
    for name, study in made.items():
        if _images(study.volume) != _images(bench.study.volume):
            raise ConfigError(
                f"{name}: the study {study.name} has other volumes than {bench.study.name}",
                "write the same shape, spacing_mm, channels and intensity in both, and train it anew",
            )


def refuse_too_few(bench: Bench) -> None:
    """Return if there are as many labelled patients and real volumes as the plan wants.

    Raises:
        DataError: There are fewer.
    """
    plan = bench.plan
    labelled = len(set(bench.cohort("labelled").patients))
    if labelled < max(plan.labels):
        raise DataError(
            f"{max(plan.labels)} labelled patients are wanted of {labelled}", "lower `labels` in the plan"
        )
    for arm in plan.arms:
        cohort = bench.cohort("generator") if arm.source == "real" else bench.folder_of(arm)
        wanted = plan.num_volumes * arm.times
        if cohort is not None and len(cohort.patients) < wanted:
            raise DataError(
                f"{arm.name}: {wanted} volumes are wanted of {len(cohort.patients)}",
                "lower `num_volumes`, so that every arm has fewer",
            )


def _images(spec: VolumeSpec) -> VolumeSpec:
    return spec.model_copy(update={"labels": ()})
