"""A study file as a researcher keeps it: the study, and how one folder of data plays all its sites.

The optional ``simulation`` block is not part of the study: a hospital never sees it, and it does
not enter the study's digest.
"""

from pathlib import Path

from common.errors import ConfigError
from common.frozen import FrozenModel, load_yaml, parse
from common.study import Study


class SimulationPlan(FrozenModel):
    """How one data folder is dealt out to the study's sites.

    Attributes:
        split: CSV with columns file, patient, site, part (and class); relative to the study file.
            Without it, the data folder must hold one folder per site, named like the site.
        parts: Parts of the split that the generator may learn from.
    """

    split: Path | None = None
    parts: tuple[str, ...] = ("generator",)


def load_study_file(path: Path) -> tuple[Study, SimulationPlan]:
    """Return the study in ``path`` and its simulation plan, with the split's path made absolute.

    Raises:
        ConfigError: The file is missing or says something that cannot be meant.
    """
    content = load_yaml(path)
    plan = parse(SimulationPlan, content.pop("simulation", None) or {}, where=f"{path}: simulation")
    study = parse(Study, content, where=str(path))
    if plan.split is None:
        return study, plan
    split = (path.parent / plan.split).resolve()
    if not split.is_file():
        raise ConfigError(
            f"{path}: simulation.split: no such file: {plan.split}", "paths are relative to the study"
        )
    return study, plan.model_copy(update={"split": split})
