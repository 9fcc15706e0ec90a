"""The site's cache of the frozen codec and of its volumes' latents. Both stay at the site.

Latents are encoded once per (codec, data) and kept UNQUANTISED, as the diffusion stage needs them,
and already in the denoiser's range (`LatentScale`, which comes from the codebook alone).
"""

from pathlib import Path

import torch

from client.dataset import VolumeDataset
from client.frozen_store import checked_digest, frozen_tensors, part_of
from common.artifact import read_tensor_folder, write_tensor_folder
from common.codec.codec import Codec
from common.diffusion.latent_scale import LatentScale
from common.errors import ArtifactError
from common.federation.messages import TrainOrder
from common.federation.seeds import seeded_generator
from common.shapes import Latent
from common.study import Study

ENCODE_BATCH = 8


class LatentStore:
    """Frozen codec and latents on the site's disk.

    Args:
        folder: Where they lie.
        study: Gives the codec's architecture.
        device: Where to encode.
    """

    def __init__(self, folder: Path, study: Study, device: torch.device) -> None:
        self.folder = folder
        self.study = study
        self.device = device

    def latents(self, order: TrainOrder, dataset: VolumeDataset) -> Latent:
        """Return the latents of all exams in the denoiser's range, on the CPU, in exam order.

        Raises:
            NeedFrozenError: The codec is neither in the order nor on the disk.
            FederationError: The codec in the order does not match its digest.
        """
        path = self.folder / f"{checked_digest(order)}-{dataset.digest}"
        try:
            groups, _ = read_tensor_folder(path)
            return groups["latents"]["scaled"]
        except ArtifactError:
            pass  # not encoded yet, or damaged: encode again
        codec = self._codec(frozen_tensors(order, self.folder))
        scaled = encode_all(codec, dataset.volumes(), self.device)
        facts = {"frozen": order.frozen_digest, "dataset": dataset.digest}
        write_tensor_folder(path, {"latents": {"scaled": scaled}}, facts)
        return scaled

    def _codec(self, frozen: dict[str, torch.Tensor]) -> Codec:
        generator = seeded_generator(self.study.seed, "shape only")
        codec = Codec(self.study.codec.model, self.study.volume.num_channels, generator)
        codec.load_state_dict(part_of(frozen, "codec."))
        return codec.to(self.device).eval()


@torch.inference_mode()
def encode_all(codec: Codec, volumes: torch.Tensor, device: torch.device) -> Latent:
    """Return the scaled, unquantised latents of all volumes, on the CPU."""
    scale = LatentScale.from_moments(*codec.codebook_moments())
    parts = [
        scale.normalize(codec.encode(volumes[start : start + ENCODE_BATCH].to(device))).cpu()
        for start in range(0, len(volumes), ENCODE_BATCH)
    ]
    # A copy that is no inference tensor: training differentiates through functions of it.
    return torch.cat(parts).clone()
