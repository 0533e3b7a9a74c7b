"""The order in which `dmat check` tries the parts of laws."""

from __future__ import annotations

import dmat
from dmat.testing.contract import Contract
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.registry import tasks

KERNEL = Implementation("k", dmat.dtilde, Contract())
CHOSEN = [(KERNEL, dtype, "cpu") for dtype in ("float32", "float16")]


def test_first_tries_ladders_then_searches_cheap_before_costly() -> None:
    """All ladders come before all searches, and in each of both the cheap laws before the costly ones."""
    order = [(part == "search", law.cost == "costly") for law, _, _, _, part in tasks(CHOSEN, first=True)]
    assert order == sorted(order)
    assert {cost for _, cost in order} == {False, True}


def test_first_begins_with_the_values_in_the_first_dtype() -> None:
    """The law that rejects most wrong kernels comes first, and float32 before other dtypes."""
    law, _, dtype, _, part = tasks(CHOSEN, first=True)[0]
    assert (law.name, dtype, part) == ("values", "float32", "ladder")


def test_without_first_costly_laws_begin() -> None:
    """A costly law that began last would keep one worker busy after the others have ended."""
    costs = [law.cost == "costly" for law, *_ in tasks(CHOSEN, first=False)]
    assert costs == sorted(costs, reverse=True)


def test_every_law_is_tried_once_in_each_dtype() -> None:
    """Each law has one task for each dtype, or a ladder and a search with --first."""
    whole = [(law.name, dtype) for law, _, dtype, _, _ in tasks(CHOSEN, first=False)]
    parts = [(law.name, dtype, part) for law, _, dtype, _, part in tasks(CHOSEN, first=True)]
    assert len(whole) == len(set(whole))
    assert sorted({(name, dtype) for name, dtype, _ in parts}) == sorted(whole)
    assert len(parts) == len(set(parts)) == 2 * len(whole)
