"""Filling uninitialised memory with what a reader of it would show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dmat.testing.recording import SILENT, Recorder

ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
)


@contextmanager
def uninitialised(filler: float, recorder: Recorder = SILENT) -> Iterator[None]:
    """Make torch.empty and its kin return floating point memory filled with `filler`.

    torch's deterministic mode would do so too, but makes CUDA's cumulative sums raise.
    """
    with ExitStack() as stack:
        for owner, name in ALLOCATORS:
            stack.enter_context(patch.object(owner, name, _filled(getattr(owner, name), filler)))
        stack.enter_context(recorder.uninitialised(filler))
        yield


def _filled(allocate: Callable[..., Tensor], filler: float) -> Callable[..., Tensor]:
    def filled(*arguments: Any, **keywords: Any) -> Tensor:
        memory = allocate(*arguments, **keywords)
        if memory.is_floating_point() and memory.device.type != "meta":
            with torch.no_grad():
                memory.fill_(filler)
        return memory

    return filled
