"""Whether results depend on the order of programs: the interpreter runs them forwards and backwards.

A device runs programs in any order. Sums by float atomics then round in that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dmat.testing.inspect.calls import Results, calls, lengths
from dmat.testing.inspect.work import on_the_cpu
from dmat.testing.interpret.order import backwards
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.verdict.finding import LawBroken

TRIES = ((1, 2), (2, 3))  # (B, NH)


def other_bits(target: str, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield the dtypes in which bits change, though the same order gives the same bits."""
    torch.set_num_threads(1)
    implementation = on_the_cpu(load(target))
    for dtype in implementation.contract.dtypes:
        if dtypes and dtype not in dtypes:
            continue
        subject = subject_of(implementation, dtype, "cpu")
        sizes = [(*heads, S) for heads in TRIES for S in lengths(subject)]
        if any(_changes(call) for size in sizes for call in calls(subject, size).values()):
            yield dtype


def _changes(call: object) -> bool:
    assert callable(call)
    try:
        first, second = call(), call()
        with backwards():
            other = call()
    except LawBroken:
        return False
    return _same(first, second) and not _same(first, other)


def _same(one: Results, other: Results) -> bool:
    """Whether all bits agree. NaN equals NaN."""
    return all(torch.equal(x.nan_to_num(), other[name].nan_to_num()) for name, x in one.items())
