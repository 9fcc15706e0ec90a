"""A study file as a researcher keeps it: the study, and how one folder of data plays all its sites.

The optional ``simulation`` block is not part of the study: a hospital never sees it, and it does
not enter the study's digest.
"""

from pathlib import Path

from common.diffusion.config import ConditionConfig
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


def with_sites(study: Study, sites: tuple[str, ...]) -> Study:
    """Return the study among other sites, of equal weight, all of whom every round waits for."""
    federation = study.federation.model_copy(update={"sites": sites, "weights": None, "min_sites": None})
    return study.model_copy(update={"federation": federation})


def alone(study: Study, site: str) -> Study:
    """Return the study as one of its sites would run it alone.

    Its denoiser is not told the site, which would tell it nothing.

    Raises:
        ConfigError: The study has no such site, or is private: its noise was calibrated for all.
    """
    sites = study.federation.sites
    if site not in sites:
        raise ConfigError(f"the study has no site {site}", f"it has {', '.join(sites)}")
    if study.privacy is not None:
        raise ConfigError("a private study is not one site's alone", "leave its privacy section out")
    denoiser = study.diffusion.model
    if denoiser.condition.kind == "site":
        denoiser = denoiser.model_copy(update={"condition": ConditionConfig()})
    diffusion = study.diffusion.model_copy(update={"model": denoiser})
    named = {"name": f"{study.name}-{site}", "diffusion": diffusion}
    return with_sites(study, (site,)).model_copy(update=named)


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
