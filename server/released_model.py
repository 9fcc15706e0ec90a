"""The global model of a run, ready to be sampled."""

from dataclasses import dataclass

import torch

from common.codec.codec import Codec
from common.diffusion.latent_scale import LatentScale
from common.diffusion.unet import UNetDenoiser
from common.errors import RunError
from common.federation.stage import Stage
from common.study import Study
from common.study_networks import study_codec, study_denoiser
from server.checkpoint import CheckpointStore
from server.participation import Participation
from server.promise import Books
from server.run_folder import RunFolder
from server.state import GlobalState


@dataclass(frozen=True)
class ReleasedModel:
    """Codec, averaged denoiser and latent scale of one run.

    Attributes:
        study: The study they were trained in.
        codec: The frozen codec, in eval mode.
        denoiser: The averaged denoiser, in eval mode.
        scale: From latents to the denoiser's range and back.
        digest: SHA-256 over the tensors of both networks.
        rounds: Finished rounds of the diffusion stage.
        books: What is known of the sites' ledgers.
        participation: Which sites' reports counted.
    """

    study: Study
    codec: Codec
    denoiser: UNetDenoiser
    scale: LatentScale
    digest: str
    rounds: int
    books: Books
    participation: Participation


def load_codec(study: Study, state: GlobalState, device: torch.device) -> Codec:
    """Return the codec of ``state`` in eval mode."""
    return study_codec(study, state.frozen_codec).to(device).eval()


def load_released_model(run: RunFolder, device: torch.device) -> ReleasedModel:
    """Return the newest model of a run.

    Raises:
        RunError: The run has not finished a diffusion round yet.
        ArtifactError: Its checkpoint is damaged.
    """
    study = run.study()
    state = CheckpointStore(run.checkpoints, study.digest).load_newest()
    if state is None or state.stage is not Stage.DIFFUSION or state.round_index == 0:
        raise RunError(f"{run.path} has no trained denoiser yet", "finish it: fedvox study resume --run ...")
    return released_model(study, state, device, Books.of(run), Participation.of(run))


def released_model(
    study: Study,
    state: GlobalState,
    device: torch.device,
    books: Books | None = None,
    participation: Participation | None = None,
) -> ReleasedModel:
    """Return the model of a state of the diffusion stage.

    Args:
        study: The study.
        state: The state.
        device: Where the networks are wanted.
        books: What is known of the sites' ledgers; nothing by default.
        participation: Which sites' reports counted; unknown by default.
    """
    codec = load_codec(study, state, device)
    denoiser = study_denoiser(study, state.released_denoiser).to(device).eval()
    scale = LatentScale.from_moments(*codec.codebook_moments())
    return ReleasedModel(
        study,
        codec,
        denoiser,
        scale,
        state.model_digest,
        state.round_index,
        books or Books(),
        participation or Participation(),
    )


def balanced_label(study: Study, index: int) -> int | None:
    """Return the label of synthetic volume ``index``: classes in turn, or None without a condition."""
    return index % study.num_classes if study.num_classes else None
