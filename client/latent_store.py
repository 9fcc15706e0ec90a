"""The site's cache of its volumes' latents under the frozen codec. It stays at the site.

Latents are encoded once per (codec, data, code) and kept UNQUANTISED, as the diffusion stage needs them,
and already in the denoiser's range (`LatentScale`, which comes from the codebook alone).
"""

from pathlib import Path

import torch
from torch import Tensor

from client.dataset import VolumeDataset
from client.frozen_store import FrozenStore
from client.volume_cache import cache_key
from common.artifact import OWNER_ONLY, read_tensor_folder, remove_others, write_tensor_folder
from common.code_digest import code_digest
from common.codec.codec import Codec
from common.diffusion.latent_scale import LatentScale
from common.errors import ArtifactError, FederationError
from common.federation.messages import TrainOrder
from common.frozen import fingerprint
from common.frozen_networks import CODEC_PREFIX, part_of
from common.shapes import Latent
from common.study import Study
from common.study_networks import study_codec


class LatentStore:
    """Frozen networks and latents of one study on the site's disk.

    Args:
        folder: The site's folder for all studies.
        study: Gives the networks' architecture.
        device: Where to encode.
    """

    def __init__(self, folder: Path, study: Study, device: torch.device) -> None:
        self.folder = folder / study.digest[:16]
        self.study = study
        self.device = device

    def frozen(self, order: TrainOrder) -> dict[str, Tensor]:
        """Return the frozen tensors that ``order`` names, which fit the study's networks.

        Raises:
            NeedFrozenError: They are neither in the order nor on the disk.
            FederationError: They do not match their digest, or the study's networks.
        """
        self.folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        return FrozenStore(self.folder, self.study).tensors(order)

    def codec(self, order: TrainOrder) -> Codec:
        """Return the order's codec, fit to encode with; no patient is read.

        Raises:
            NeedFrozenError: The codec is neither in the order nor on the disk.
            FederationError: It does not match its digest or the study, or its codebook gives no scale.
        """
        codec = study_codec(self.study, part_of(self.frozen(order), CODEC_PREFIX)).to(self.device).eval()
        try:
            LatentScale.from_moments(*codec.codebook_moments())
        except ArtifactError as error:
            raise FederationError(f"the order's codec is of no use: {error.message}", error.remedy) from None
        return codec

    def latents(self, order: TrainOrder, dataset: VolumeDataset) -> Latent:
        """Return the latents of all exams in the denoiser's range, on the CPU, in exam order.

        Raises:
            NeedFrozenError: The codec is neither in the order nor on the disk.
            FederationError: It does not match its digest or the study, or its codebook gives no scale.
        """
        codec = self.codec(order)
        path = self.folder / f"latents-{self._key(order, dataset)}"
        try:
            groups, _ = read_tensor_folder(path)
            return groups["latents"]["scaled"]
        except ArtifactError:
            pass  # not encoded yet, or damaged: encode again
        scaled = encode_all(codec, dataset.codec_volumes(), self.device)
        facts = {"frozen": order.frozen_digest, "dataset": dataset.digest}
        write_tensor_folder(path, {"latents": {"scaled": scaled}}, facts)
        remove_others(path, "latents-*")
        return scaled

    def _key(self, order: TrainOrder, dataset: VolumeDataset) -> str:
        """Return what stands for all that the latents depend on."""
        model = fingerprint(self.study.codec.model)
        return cache_key([order.frozen_digest, dataset.digest, model, code_digest(), self.device.type])


@torch.inference_mode()
def encode_all(codec: Codec, volumes: Tensor, device: torch.device) -> Latent:
    """Return the scaled, unquantised latents of all volumes, on the CPU.

    One exam at a time: a kernel rounds a volume differently in a larger batch, and a codec made for it turns
    that into any difference. So nothing of an exam's latent depends on who else is at the site.
    """
    scale = LatentScale.from_moments(*codec.codebook_moments())
    parts = [scale.normalize(codec.encode(volume[None].to(device))).cpu() for volume in volumes]
    # A copy that is no inference tensor: training differentiates through functions of it.
    return torch.cat(parts).clone()
