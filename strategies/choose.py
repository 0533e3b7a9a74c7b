"""One choice among a few: the atom that every recipe is drawn from.

Building a Hypothesis strategy costs more than drawing from it, so recipes are drawn by plain functions
of `draw` that choose by index, and the few integer strategies they need are built once. Where a search
shrinks nothing, `draw` is a generator that Hypothesis seeds: a sixth of the cost again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

Option = TypeVar("Option")
Draw = st.DrawFn | Random


@cache
def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


def between(draw: Draw, low: int, high: int) -> int:
    """Draw low <= n <= high; shrinks to whichever end is nearer to zero."""
    return draw.randint(low, high) if isinstance(draw, Random) else draw(_integers(low, high))


def choose(draw: Draw, options: Sequence[Option]) -> Option:
    """Draw one of the options; shrinks to the first. Repeat an option to have it more often."""
    return options[between(draw, 0, len(options) - 1)]


def seed(draw: Draw) -> int:
    """Draw a seed for a seeded background."""
    return between(draw, 0, 2**16)


def some(draw: Draw, options: Sequence[Option], fewest: int, most: int) -> tuple[Option, ...]:
    """Draw between `fewest` and `most` of the options, repetition allowed."""
    return tuple(choose(draw, options) for _ in range(between(draw, fewest, most)))
