import dataclasses

import pytest
import torch

from client.dataset import VolumeDataset
from client.frozen_store import NeedFrozenError
from client.latent_store import LatentStore, encode_all
from client.site_config import SiteConfig
from common.artifact import digest_of_tensors
from common.codec.codec import Codec
from common.codec.config import CodecConfig, GradientQuantizerConfig
from common.errors import FederationError
from common.federation.messages import TrainOrder
from common.federation.stage import Stage
from server.state import initial_state
from tests.small_federation import small_study, write_volumes


def codec() -> Codec:
    config = CodecConfig(channels=8, quantizer=GradientQuantizerConfig(num_codes=16, code_dim=3))
    return Codec(config, 1, torch.Generator().manual_seed(0))


def volumes(num: int) -> torch.Tensor:
    scale = torch.linspace(0.1, 3, num).reshape(-1, 1, 1, 1, 1)
    return scale * torch.randn(num, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))


def test_latents_are_scaled_by_the_codebook_and_by_nothing_of_the_site():
    network, everyone = codec(), volumes(5)
    mean, std = network.codebook_moments()
    with torch.no_grad():
        raw = network.encode(everyone)
    expected = (raw - mean.float().reshape(1, -1, 1, 1, 1)) / std.float().reshape(1, -1, 1, 1, 1)
    torch.testing.assert_close(encode_all(network, everyone, torch.device("cpu")), expected)


@pytest.mark.parametrize("missing", [0, 3, 8])
def test_a_patients_latent_has_the_same_bits_whoever_else_is_at_the_site(missing):
    # Nine and eight: in batches of eight, the last one would be alone in one case and not in the other.
    # Weights that a server chose: of a size at which kernels' roundings differ, and with a codebook so narrow
    # that latents are multiplied by a million.
    network, everyone = codec(), volumes(9)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            if parameter.dim() > 1:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
                )
        network.quantizer.base.mul_(1e-6)
    kept = [index for index in range(9) if index != missing]
    together = encode_all(network, everyone, torch.device("cpu"))
    without = encode_all(network, everyone[kept], torch.device("cpu"))
    assert torch.equal(together[kept], without)


def test_latents_are_made_again_by_other_code(tmp_path, monkeypatch):
    study = small_study(("a",))
    state = initial_state(study)
    order = TrainOrder(
        study.digest, "a", Stage.DIFFUSION, 1, {}, frozen_digest=state.frozen_digest, frozen=state.frozen
    )
    site = SiteConfig(name="a", data=write_volumes(tmp_path / "data", 2, 1), state=tmp_path / "state")
    dataset = VolumeDataset.open(site, study.volume)
    store = LatentStore(tmp_path / "latents", study, torch.device("cpu"))
    calls = []
    monkeypatch.setattr("client.latent_store.encode_all", lambda *a: calls.append(1) or encode_all(*a))
    first = store.latents(order, dataset)
    assert torch.equal(store.latents(order, dataset), first)
    assert len(calls) == 1
    monkeypatch.setattr("client.latent_store.code_digest", lambda: "of a later version")
    assert torch.equal(store.latents(order, dataset), first)
    assert len(calls) == 2
    (folder,) = (tmp_path / "latents").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["frozen", "latents"]


def test_the_disk_holds_one_set_of_frozen_networks_and_none_that_does_not_fit(tmp_path):
    study = small_study(("a",))
    store = LatentStore(tmp_path / "latents", study, torch.device("cpu"))
    first = initial_state(study).frozen

    def order(frozen):
        digest = digest_of_tensors(frozen)
        return TrainOrder(study.digest, "a", Stage.DIFFUSION, 1, {}, frozen_digest=digest, frozen=frozen)

    store.frozen(order(first))
    second = {name: tensor + 1 for name, tensor in first.items()}
    store.frozen(order(second))
    assert [path.name for path in store.folder.iterdir()] == [f"frozen-{digest_of_tensors(second)}"]
    for wrong in (
        {**first, "codec.more": torch.zeros(10**6)},
        {name: tensor.double() for name, tensor in first.items()},
        {name: tensor[None] for name, tensor in first.items()},
        dict(list(first.items())[1:]),
    ):
        with pytest.raises(FederationError, match="not those of the study's networks"):
            store.frozen(order(wrong))
    assert len(list(store.folder.iterdir())) == 1
    with pytest.raises(NeedFrozenError):
        store.frozen(dataclasses.replace(order(first), frozen={}))
