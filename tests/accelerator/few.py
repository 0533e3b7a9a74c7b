"""Tries laws on a kernel of targets.py with few examples, in a process of its own that has the device."""

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


def records(target: str, dtype: str, laws: Sequence[str], send: Send) -> list[Record]:
    """Return the record of each law on sim."""
    from tests.accelerator import targets

    kernel = Implementation.of(target, getattr(targets, target))
    return [record_of(law_named(law, kernel.kind), subject_of(kernel, dtype, "sim"), FEW) for law in laws]
