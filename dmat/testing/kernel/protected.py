"""Guard pages: a kernel that reads past a tensor next to a guard page crashes, even if it ignores the value.

`at_the_edge` in dmat.testing.kernel.runtime makes such tensors. `died_of` in dmat.testing.processes makes the
call in a child process. Guard pages need the CPU, and an operating system with mmap, mprotect and fork.
"""

from __future__ import annotations

import mmap
import os
import sys

from torch import Tensor

SIDES = ("end", "start")


def available() -> str | None:
    """Return why guard pages do not work on this machine, or None if they do."""
    if not hasattr(os, "fork") or not hasattr(mmap, "PROT_READ") or sys.platform != "linux":
        return "protected pages need Linux"
    return None


def side_of(tensor: Tensor) -> str:
    """Return which side of a tensor made by `at_the_edge` touches a guard page: "end" or "start"."""
    return "end" if (tensor.data_ptr() + tensor.nbytes) % mmap.PAGESIZE == 0 else "start"
