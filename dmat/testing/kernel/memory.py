"""Poison for uninitialised memory: a kernel that reads such memory shows the poison in its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dmat.testing.kernel import runtime
from dmat.testing.kernel.recording import SILENT, Recorder


@contextmanager
def uninitialised(poison: float, recorder: Recorder = SILENT) -> Iterator[None]:
    """Fill uninitialised memory with the poison value `poison`, and record it."""
    with runtime.uninitialised(poison), recorder.uninitialised(poison):
        yield
