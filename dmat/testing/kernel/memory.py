"""Filling uninitialised memory with what a reader of it would show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dmat.testing.kernel import runtime
from dmat.testing.kernel.recording import SILENT, Recorder


@contextmanager
def uninitialised(filler: float, recorder: Recorder = SILENT) -> Iterator[None]:
    """Fill uninitialised memory with `filler`, and tell the recorder."""
    with runtime.uninitialised(filler), recorder.uninitialised(filler):
        yield
