"""Nearest code of every latent vector, in bounded memory.

    argmin_k ‖z - e_k‖² = argmin_k (‖e_k‖² - 2 z·e_k)

A dense search holds positions x codes distances (and, in the paper's code, one-hot matrices of the same
size: 56 GiB at 256x256x32). Here a chunk of positions at a time meets all codes.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

DISTANCES_PER_CHUNK = 1 << 19  # 2 MiB of float32: what a core's cache holds


def nearest_codes(
    vectors: Float[Tensor, "position code_dim"], codes: Float[Tensor, "code code_dim"]
) -> Int[Tensor, " position"]:
    """Return the index of the nearest code of each vector, in float32 also under autocast."""
    indices: Tensor = _NearestCode.apply(vectors, codes)  # type: ignore[no-untyped-call]
    return indices


class _NearestCode(torch.autograd.Function):
    """The search as one operation, so that `torch.func.vmap` takes many latents through it as one."""

    @staticmethod
    def forward(vectors: Tensor, codes: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            table = codes.float()
            squares = table.square().sum(dim=1)
            factors = (-2 * table).T.contiguous()
            rows = max(1, DISTANCES_PER_CHUNK // len(table))
            parts = [
                _argmin(torch.addmm(squares, part.float(), factors)) for part in torch.split(vectors, rows)
            ]
            return torch.cat(parts) if parts else vectors.new_zeros(0, dtype=torch.long)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, None]:  # noqa: ARG004
        return None, None

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[int | None, int | None],
        vectors: Tensor,
        codes: Tensor,
    ) -> tuple[Tensor, int]:
        if in_dims[1] is not None:
            raise ValueError("a codebook of its own for every row is not supported")
        rows = vectors.movedim(in_dims[0] or 0, 0)
        return nearest_codes(rows.flatten(0, 1), codes).reshape(len(rows), -1), 0


def _argmin(distances: Float[Tensor, "position code"]) -> Int[Tensor, " position"]:
    """Return the first column of each row's minimum."""
    if distances.device.type == "cpu":  # NumPy's is four times as fast as torch's
        return torch.from_numpy(distances.numpy().argmin(axis=1))
    return distances.argmin(dim=1)


def to_vectors(latent: Float[Tensor, "batch code_dim u v w"]) -> Float[Tensor, "position code_dim"]:
    """Return one row per position, examples one after another."""
    return latent.movedim(1, -1).reshape(-1, latent.shape[1])


def to_latent(
    vectors: Float[Tensor, "position code_dim"], like: Float[Tensor, "batch code_dim u v w"]
) -> Float[Tensor, "batch code_dim u v w"]:
    """Return the inverse of `to_vectors`, for a latent of the shape of ``like``."""
    batch, code_dim, *spatial = like.shape
    return vectors.reshape(batch, *spatial, code_dim).movedim(-1, 1)
