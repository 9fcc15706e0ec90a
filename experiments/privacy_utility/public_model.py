"""The public model that all arms start from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.federation.config import TrainingConfig
from common.study import Study
from experiments.in_process import run_in_process
from experiments.privacy_utility.cohort import ONE_THREAD, Group
from server.state import GlobalState, start_diffusion

Groups = Mapping[str, Group]
ONE_STEP = TrainingConfig(rounds=1, local_steps=1, batch_size=1)


@dataclass(frozen=True)
class PublicModel:
    """A finished public run.

    Attributes:
        study: Its study.
        state: Its last state.
    """

    study: Study
    state: GlobalState


def train_public_model(study: Study, folder: Path, subjects: Groups, for_codec: Groups) -> PublicModel:
    """Return the public model; what an earlier call finished is read from its checkpoints.

    Args:
        study: Networks and schedules.
        folder: Where its two runs lie.
        subjects: Who both stages learn from, by site.
        for_codec: Who only the codec learns from: they look like nobody whom the denoiser should draw.
    """
    everyone = {**subjects, **for_codec}
    # The schedule of the stage that a run is not for is one step, or not run at all.
    codec_study = _for_sites(study, everyone, diffusion=ONE_STEP)
    codec = _trained(codec_study, folder / "codec", everyone, opening=None)
    denoiser_study = _for_sites(study, subjects, diffusion=study.diffusion.training)
    state = _trained(
        denoiser_study, folder / "denoiser", subjects, lambda: start_diffusion(codec, denoiser_study)
    )
    return PublicModel(denoiser_study, state)


def _for_sites(study: Study, groups: Groups, diffusion: TrainingConfig) -> Study:
    federation = study.federation.model_copy(update={"sites": tuple(groups)})
    stage = study.diffusion.model_copy(update={"training": diffusion})
    return study.model_copy(update={"federation": federation, "diffusion": stage})


def _trained(
    study: Study, folder: Path, groups: Groups, opening: Callable[[], GlobalState] | None
) -> GlobalState:
    configs = {name: group.config(folder / "sites" / name, ONE_THREAD) for name, group in groups.items()}
    source = {"table": [str(group.table) for group in groups.values()]}
    return run_in_process(study, configs, folder, source, opening)[1]
