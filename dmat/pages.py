"""Large new tensors on large pages: to write memory for the first time costs more than to fill it.

The system clears new memory page by page when it is first written, 4 KiB at a time, which takes six times as
long as the writing. Linux can do it 2 MiB at a time, where asked to; numpy asks for all its arrays from 4 MB
on, torch only under THP_MEM_ALLOC_ENABLE=1. It is advice: where it is not followed, nothing is different.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from torch import Tensor

LARGE = 2**22  # bytes: numpy's threshold
PAGE = 2**21  # bytes
MADV_HUGEPAGE = 14  # asm-generic/mman-common.h


def on_large_pages(x: Tensor) -> Tensor:
    """Ask for large pages under a new, unwritten tensor, if it is a large one on a CPU; return it."""
    size = x.numel() * x.element_size()
    if size >= LARGE and x.device.type == "cpu" and type(x) is Tensor and (madvise := _madvise()) is not None:
        start = -(-x.data_ptr() // PAGE) * PAGE
        end = (x.data_ptr() + size) // PAGE * PAGE
        if end > start:
            madvise(start, end - start, MADV_HUGEPAGE)
    return x


@cache
def _madvise() -> Any:
    """The C library's madvise(address, length, advice), or None where that is not Linux."""
    if sys.platform != "linux":
        return None
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
