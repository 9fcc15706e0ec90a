"""Applies a site's `Compute`: threads and determinism for the time of one order."""

import contextlib
import os
from collections.abc import Iterator

import torch

from client.site_config import Compute


@contextlib.contextmanager
def applied(compute: Compute) -> Iterator[torch.device]:
    """Yield the device; threads and deterministic algorithms are set inside the block only."""
    device = torch.device(compute.device)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # cuBLAS is deterministic only with a fixed workspace, which it reads when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    # On CUDA some backward kernels of 3D networks have no deterministic form: warn, do not stop.
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    try:
        yield device
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
