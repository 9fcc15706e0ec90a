"""Whether a public model means the same as the study that wants to start from it.

Equal names and shapes of tensors are not enough: a network that predicts noise, or sees millimetres that
are others, would be trained on at the price of patients' privacy and yield nothing.
"""

from pathlib import Path
from typing import Any

from common.errors import RunError
from common.study import Study
from server.checkpoint import CheckpointStore
from server.run_folder import RunFolder
from server.state import GlobalState, is_finished, start_from_public

_NO_MATTER_OF_MEANING = {
    "codec": {
        "l1_weight",
        "mse_weight",
        "commitment_weight",
        "perceptual_weight",
        "discriminator",
    },
    "diffusion": {"sampler", "ema_decay", "time_distribution"},
}


def opening_state(study: Study, start_from: Path | None) -> GlobalState | None:
    """Return the state that a private study opens with; None if the study starts from nothing.

    Args:
        study: The study.
        start_from: Run folder of the public model.

    Raises:
        RunError: The study needs a public model and has none, or this is not the one that it names.
    """
    if start_from is None:
        if study.privacy is not None:
            raise RunError("a private study starts from a public model", "name its run: --start-from RUN")
        return None
    if study.privacy is None:
        raise RunError("--start-from is for studies with a privacy section", "leave it out")
    public = RunFolder.open(start_from)
    state = CheckpointStore(public.checkpoints, public.study().digest).load_newest()
    if state is None or not is_finished(state, public.study()):
        raise RunError(f"{start_from} is not finished", "finish it: fedvox study resume --run ...")
    if public.study().privacy is not None:
        raise RunError(f"{start_from} was trained on patients", "start from a model of public volumes")
    refuse_other_meaning(public.study(), study)
    return start_from_public(state, study)


def refuse_other_meaning(public: Study, study: Study) -> None:
    """Return if the networks of both studies read and write the same.

    Args:
        public: Study of the public model.
        study: The study that starts from it.

    Raises:
        RunError: They do not; the message names the first difference.
    """
    theirs, ours = _meaning(public), _meaning(study)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise RunError(
                f"{name} is {ours.get(name)} in the study and {theirs.get(name)} in the public model's",
                "take it over from there: the model was trained for that",
            )


def _meaning(study: Study) -> dict[str, Any]:
    """Return what decides how tensors are read, by the names of the study's file."""
    volume = study.volume.model_dump(mode="json", exclude={"shape"})  # convolutions take any
    codec = study.codec.model.model_dump(mode="json", exclude=_NO_MATTER_OF_MEANING["codec"])
    diffusion = study.diffusion.model.model_dump(mode="json", exclude=_NO_MATTER_OF_MEANING["diffusion"])
    named = (("volume", volume), ("codec.model", codec), ("diffusion.model", diffusion))
    return {f"{part}.{name}": value for part, content in named for name, value in content.items()}
