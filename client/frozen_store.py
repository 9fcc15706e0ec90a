"""The networks that a stage uses and does not train, on the site's disk: sent once, then named by digest."""

import re
from pathlib import Path

from torch import Tensor

from common.artifact import digest_of_tensors, read_tensor_folder, write_tensor_folder
from common.errors import ArtifactError, ErrorCode, FederationError
from common.federation.messages import TrainOrder


class NeedFrozenError(FederationError):
    """The order leaves the frozen networks out, but this site does not hold them."""

    code = ErrorCode.NEED_FROZEN


def frozen_tensors(order: TrainOrder, folder: Path) -> dict[str, Tensor]:
    """Return the frozen tensors that ``order`` names, from the order or from ``folder``, where they are kept.

    Raises:
        NeedFrozenError: They are in neither.
        FederationError: They do not match the digest in the order.
    """
    path = folder / f"frozen-{checked_digest(order)}"
    tensors = dict(order.frozen)
    if not tensors:
        try:
            tensors = read_tensor_folder(path)[0]["frozen"]
        except ArtifactError:
            raise NeedFrozenError("the frozen networks are not on this site's disk") from None
    if digest_of_tensors(tensors) != order.frozen_digest:
        raise FederationError(
            "the frozen networks do not match the digest in the order", "ask for the order again"
        )
    if order.frozen:
        write_tensor_folder(path, {"frozen": tensors}, {"digest": order.frozen_digest})
    return tensors


def checked_digest(order: TrainOrder) -> str:
    """Return the digest in the order, which names folders here, if it is one.

    Raises:
        FederationError: It is something else, such as a path.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", order.frozen_digest):
        raise FederationError("the digest in the order is none", "compare fedvox versions of server and site")
    return order.frozen_digest


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
