"""The networks that a stage uses and does not train, on the site's disk: sent once, then named by digest."""

import re
from pathlib import Path

from torch import Tensor

from common.artifact import digest_of_tensors, read_tensor_folder, remove_others, write_tensor_folder
from common.errors import ArtifactError, ErrorCode, FederationError
from common.federation.messages import TrainOrder
from common.federation.tensor_check import first_difference, first_not_finite
from common.frozen_networks import frozen_example
from common.study import Study

NOT_THE_STUDYS = "the order's tensors are not those of the study's networks"


class NeedFrozenError(FederationError):
    """The order leaves the frozen networks out, but this site does not hold them."""

    code = ErrorCode.NEED_FROZEN


class FrozenStore:
    """The frozen networks of one study; the disk holds one set of them, whatever a server sends.

    Args:
        folder: Where they are kept; this study's alone.
        study: Says which tensors they are.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self._folder = folder
        self._study = study

    def tensors(self, order: TrainOrder) -> dict[str, Tensor]:
        """Return the frozen tensors that ``order`` names, from the order or from the disk.

        Raises:
            NeedFrozenError: They are in neither.
            FederationError: They do not match the digest in the order, or the study's networks.
        """
        path = self._folder / f"frozen-{_checked_digest(order)}"
        tensors = dict(order.frozen)
        if not tensors:
            try:
                return read_tensor_folder(path)[0]["frozen"]
            except ArtifactError:
                raise NeedFrozenError("the frozen networks are not on this site's disk") from None
        if digest_of_tensors(tensors) != order.frozen_digest:
            raise FederationError(
                "the frozen networks do not match the digest in the order", "ask for the order again"
            )
        wrong = first_difference(tensors, frozen_example(self._study)) or first_not_finite(tensors)
        if wrong is not None:
            raise FederationError(f"{NOT_THE_STUDYS}: {wrong}", "compare fedvox versions of server and site")
        write_tensor_folder(path, {"frozen": tensors}, {"digest": order.frozen_digest})
        remove_others(path, "frozen-*")
        return tensors


def _checked_digest(order: TrainOrder) -> str:
    """Return the digest in the order, which names a folder here, if it is one.

    Raises:
        FederationError: It is something else, such as a path.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", order.frozen_digest):
        raise FederationError("the digest in the order is none", "compare fedvox versions of server and site")
    return order.frozen_digest
