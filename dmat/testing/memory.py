"""Filling uninitialised memory with what a reader of it would show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from dmat.testing import scripted
from dmat.testing.literal import number
from dmat.testing.transcript import Transcript


@contextmanager
def uninitialised(filler: float, transcript: Transcript | None = None) -> Iterator[None]:
    """Fill uninitialised memory with `filler`, and write so down in the transcript."""
    block = transcript.block(f"with uninitialised({number(filler)}):") if transcript else nullcontext()
    with scripted.uninitialised(filler), block:
        yield
