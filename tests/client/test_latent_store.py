import torch

from client.latent_store import encode_all
from common.codec.codec import Codec
from common.codec.config import CodecConfig, GradientQuantizerConfig


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


def test_a_patients_latent_does_not_depend_on_who_else_is_at_the_site():
    together = encode_all(codec(), volumes(5), torch.device("cpu"))
    alone = encode_all(codec(), volumes(5)[2:3], torch.device("cpu"))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-5, atol=1e-5)
