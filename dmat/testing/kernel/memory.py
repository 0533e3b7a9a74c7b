"""Poison for uninitialised memory: a kernel that reads such memory shows the poison in its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dmat.testing.kernel import runtime
from dmat.testing.kernel.recording import SILENT, Recorder


@contextmanager
def uninitialised(filler: float, recorder: Recorder = SILENT) -> Iterator[None]:
    """Fill uninitialised memory with the poison value `filler`, and record it."""
    with runtime.uninitialised(filler), recorder.uninitialised(filler):
        yield
