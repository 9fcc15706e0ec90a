"""The tensors of a study's orders, known to both ends from the study alone."""

from dataclasses import dataclass

from torch import Tensor

from common.codec.training import initial_codec_state
from common.federation.packet import FROZEN, PARAMETERS
from common.federation.packing import manifest_of, tensors_to_bytes
from common.federation.seeds import seeded_generator
from common.federation.stage import Stage
from common.frozen_networks import CODEC_PREFIX, frozen_example, with_prefix
from common.privacy.patient_gradients import trainable
from common.study import Study
from common.study_networks import shaped_codec, shaped_denoiser


@dataclass(frozen=True)
class OrderTensors:
    """What an order of a stage carries.

    Attributes:
        manifest: SHA-256 over name, shape and dtype of the tensors to start from.
        sizes: Bytes of each section.
    """

    manifest: str
    sizes: dict[str, int]

    @classmethod
    def of(cls, study: Study, stage: Stage) -> "OrderTensors":
        """Return those of a stage."""
        trained = trained_example(study, stage)
        frozen = frozen_example(study) if stage is Stage.DIFFUSION else {}
        sections = {PARAMETERS: trained, FROZEN: frozen}
        return cls(manifest_of(trained), {n: len(tensors_to_bytes(t)) for n, t in sections.items() if t})


def trained_example(study: Study, stage: Stage) -> dict[str, Tensor]:
    """Return tensors with the names, shapes and dtypes of what a stage trains."""
    if stage is Stage.DIFFUSION:
        denoiser = shaped_denoiser(study)
        return dict(trainable(denoiser)) if study.privacy is not None else denoiser.state_dict()
    if study.privacy is not None:
        return with_prefix(shaped_codec(study).state_dict(), CODEC_PREFIX)
    generator = seeded_generator(study.seed, "shape only")
    return initial_codec_state(study.codec.model, study.volume.num_codec_channels, generator)
