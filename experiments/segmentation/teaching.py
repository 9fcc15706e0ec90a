"""Whose label maps a network is fine-tuned on.

The few labelled patients'; or, where volumes were generated with label maps, those of a generator. Two
questions are kept apart. May a generator that saw all label maps of its sites stand for these maps
(``synthetic`` against ``real``)? And does one that saw nobody but the few labelled patients teach more than
they do (``few`` against ``labelled``)? The first kind knows more labels than the second question allows.
"""

import torch

from common.errors import ConfigError, DataError
from common.federation.seeds import derive_seed, seeded_generator
from experiments.segmentation.arms import Bench
from experiments.segmentation.cohort import Cohort
from experiments.segmentation.few_shot import train_on_few
from experiments.segmentation.pairs import Pairs
from experiments.segmentation.plan import ArmConfig
from experiments.segmentation.sources import Synthetic


def taught_pairs(arm: ArmConfig, key: str, num_labels: int, seed: int, bench: Bench) -> Pairs:
    """Return what an arm's network is fine-tuned on.

    Args:
        arm: Says who teaches.
        key: Of the arm; see `Bench.key_of`.
        num_labels: Labelled patients.
        seed: Draws them.
        bench: Whose they are.
    """
    plan, num = bench.plan, bench.plan.num_volumes * arm.times
    sampling_seed = plan.pretraining_of(seed)[1]
    if arm.teacher == "real":
        return bench.cohort("generator").pairs()
    if arm.teacher == "synthetic":
        return bench.synthetic(arm).pairs(num, sampling_seed, plan.classes)
    labelled = bench.cohort("labelled")
    chosen = labelled_exams(labelled, num_labels, seed)
    few = labelled.pairs(chosen)
    if arm.teacher == "labelled":
        return few
    if bench.labelled_study is None:
        raise ConfigError(f"arm {arm.name}: no study says what its generators are", "give labelled_study")
    folder = bench.work / "few" / f"{key}-n{num_labels}-s{seed}"
    exams = [labelled.exams[index] for index in chosen]
    named = [(exam.exam, exam.patient) for exam in exams]
    run = train_on_few(bench.labelled_study, bench.volumes_folder, named, derive_seed("few", seed), folder)
    made = Synthetic(run, folder / "synthetic", bench.device).pairs(num, sampling_seed, plan.classes)
    return few.repeated(max(1, len(made) // len(few))) + made  # half of what is seen is an expert's


def labelled_exams(labelled: Cohort, num: int, seed: int) -> list[int]:
    """Return one exam each of some labelled patients, drawn by the seed alone.

    Raises:
        DataError: There are fewer patients.
    """
    names = sorted(set(labelled.patients))
    if len(names) < num:
        raise DataError(f"{num} labelled patients are wanted of {len(names)}", "lower `labels` in the plan")
    generator = seeded_generator("labelled patients", seed)
    drawn = [names[index] for index in torch.randperm(len(names), generator=generator)[:num].tolist()]
    return [labelled.patients.index(name) for name in drawn]
