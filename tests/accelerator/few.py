"""Tries laws on kernels of targets.py with few examples, in a process of its own that has the device."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import Phase, settings

from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.processes import Send
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.run import record_of

FEW = settings(max_examples=2, database=None, phases=[Phase.generate], deadline=None)

Tried = tuple[str, str, str]  # a kernel of targets.py, a law, a dtype


def records(tried: Sequence[Tried], send: Send) -> tuple[list[Record], dict[str, int]]:
    """Return the record of each, and how often values were copied to the host by which line."""
    from tests.accelerator import simulated, targets

    found = []
    for target, law, dtype in tried:
        kernel = Implementation.of(target, getattr(targets, target))
        found.append(record_of(law_named(law, kernel.kind), subject_of(kernel, dtype, simulated.NAME), FEW))
    return found, dict(simulated.copies)
