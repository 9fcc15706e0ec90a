"""Which code stands for which error: the text stays at the site."""

import errno

import pytest
import torch

from client.site import code_of
from common.errors import BudgetError, ErrorCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BudgetError("x"), ErrorCode.BUDGET),
        (torch.OutOfMemoryError("CUDA out of memory"), ErrorCode.MEMORY),
        (torch.AcceleratorError("CUDA error: the launch failed"), ErrorCode.DEVICE),
        (OSError(errno.ENOSPC, "full"), ErrorCode.DISK),
        (OSError(errno.EDQUOT, "full"), ErrorCode.DISK),
        (OSError(errno.EIO, "broken"), ErrorCode.DATA),
        (RuntimeError("patient 7"), ErrorCode.INTERNAL),
    ],
)
def test_codes(error, code):
    assert code_of(error) is code
