"""Guard pages: a tensor that touches one shows a read past its end, whose value is not even used, by a crash.

`at_the_edge` in dmat.testing.scripted makes such tensors; `died_of` in dmat.testing.processes makes the call.
On the CPU, where the operating system has mmap, mprotect and fork.
"""

from __future__ import annotations

import mmap
import os
import sys

from torch import Tensor

SIDES = ("end", "start")


def available() -> str | None:
    """Return why pages cannot be protected here, or None."""
    if not hasattr(os, "fork") or not hasattr(mmap, "PROT_READ") or sys.platform != "linux":
        return "protected pages need Linux"
    return None


def side_of(tensor: Tensor) -> str:
    """Return which side of a tensor made by `at_the_edge` touches a protected page."""
    return "end" if (tensor.data_ptr() + tensor.nbytes) % mmap.PAGESIZE == 0 else "start"
