"""Tensors that end, or begin, at a page nobody may touch, and calls in a process that may die of it.

A read past the end of such a tensor is no wrong value but a crash: it shows the read whose value is not
even used. On the CPU, where the operating system has mmap, mprotect and fork.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

SIDES = ("end", "start")
DEADLY = (signal.SIGSEGV, signal.SIGBUS) if sys.platform != "win32" else ()
PATIENCE = 10.0  # seconds until a child is given up: one that hangs proves nothing
PROT_NONE = 0


def available() -> str | None:
    """Return why pages cannot be protected here, or None."""
    if not hasattr(os, "fork") or not hasattr(mmap, "PROT_READ") or sys.platform != "linux":
        return "protected pages need Linux"
    return None


def at_the_edge(dense: Tensor, side: str) -> Tensor:
    """Return an equal, contiguous tensor whose `side`, "end" or "start", touches a protected page."""
    size, page = dense.numel() * dense.element_size(), mmap.PAGESIZE
    if size == 0:
        return dense.contiguous()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = pages * page - size if side == "end" else page
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    edge = at + (pages * page if side == "end" else 0)
    _protect(edge, page)
    view = torch.frombuffer(memory, dtype=dense.dtype, count=dense.numel(), offset=start)
    return view.view(dense.shape).copy_(dense)


def side_of(tensor: Tensor) -> str:
    """Return which side of a tensor made by `at_the_edge` touches a protected page."""
    return "end" if (tensor.data_ptr() + tensor.nbytes) % mmap.PAGESIZE == 0 else "start"


def _protect(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")


class NotEnded(Exception):
    """The call did not end in a child process."""


def died_of(call: Callable[[], object]) -> str | None:
    """Make the call in a child process; return the name of the signal of memory that killed it, or None.

    Raises NotEnded where it did not end in PATIENCE seconds, as code with threads of its own may not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads: the child only makes the call
        child = os.fork()
    if child == 0:
        _call_and_exit(call)
    ended = _ended_in_time(child)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ended:
        raise NotEnded(f"the call did not end in {PATIENCE:.0f} s in a process of its own")
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return signal.Signals(killed).name if killed in DEADLY else None


def _call_and_exit(call: Callable[[], object]) -> None:
    """Make the call with no output and no handler, and leave without any of the parent's clean-up."""
    try:
        for deadly in DEADLY:
            signal.signal(deadly, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        call()
    finally:
        os._exit(0)


def _ended_in_time(child: int) -> bool:
    ends = os.pidfd_open(child)
    try:
        return bool(select.select([ends], [], [], PATIENCE)[0])
    finally:
        os.close(ends)
