"""Whether a public model means the same as the study that wants to start from it.

Equal names and shapes of tensors are not enough: a network that predicts noise, or sees millimetres that
are others, would be trained on at the price of patients' privacy and yield nothing.
"""

from typing import Any

from common.errors import RunError
from common.study import Study

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
