"""A generator of images with label maps that learned from a few patients and from nobody else."""

from collections.abc import Sequence
from pathlib import Path

from client.exam_folder import find_exams
from client.site_config import Compute, Selection, SiteConfig
from common.study import Study
from experiments.in_process import run_in_process
from experiments.privacy_utility.cohort import write_table
from experiments.simulate import check_sites, source_of
from experiments.study_file import with_sites

SITE, PART, OTHERS = "few", "few", "others"


def shortened(study: Study) -> Study:
    """Return a study of one round of two steps a stage: it proves nothing."""
    short = {"rounds": 1, "local_steps": 2}
    stages = {"codec": study.codec, "diffusion": study.diffusion}
    changes = {
        name: stage.model_copy(update={"training": stage.training.model_copy(update=short)})
        for name, stage in stages.items()
    }
    return study.model_copy(update=changes)


def train_on_few(study: Study, data: Path, exams: Sequence[tuple[str, str]], seed: int, folder: Path) -> Path:
    """Return the run folder of a generator; one that was trained before is left as it is.

    Args:
        study: Its networks and schedules; it has labels.
        data: Folder of ``images`` and ``labels``.
        exams: The names of exams, each with its patient: what the generator learns from.
        seed: Of its parameters and their training.
        folder: Where the run and the site's own files are to lie.

    Raises:
        DataError: An exam is not what the study needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder.resolve() / "patients.csv"
    chosen = dict(exams)  # a table names every exam of its folder
    rows = [
        (exam, chosen[exam], SITE, PART) if exam in chosen else (exam, exam, OTHERS, OTHERS)
        for exam in (found.exam for found in find_exams(data, study.volume.channels))
    ]
    write_table(table, rows)
    config = SiteConfig(
        name=SITE,
        data=data.resolve(),
        patients=table,
        select=Selection(site=SITE, part=(PART,)),
        compute=Compute(threads=1),  # jobs run side by side
        state=folder.resolve() / "site",
    )
    alone = with_sites(study, (SITE,)).model_copy(update={"seed": seed})
    source = source_of(check_sites(alone, {SITE: config}))
    return run_in_process(alone, {SITE: config}, folder / "run", source)[0].path
