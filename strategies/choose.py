"""Draw an integer, or one of a few options: every recipe is drawn through these functions.

Building a Hypothesis strategy costs more than drawing from it. So recipes are drawn by plain functions of
`draw` that choose by index, and the few integer strategies that they need are built once and cached.
`draw` is a `Random` in a search that does not shrink; Hypothesis seeds it. That costs a sixth as much.
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
    """Draw low <= n <= high. Shrinks to the end of the range that is nearer to zero."""
    if isinstance(draw, Random):  # a third of randint's time; no range here is near 2^53
        return low + int(draw.random() * (high - low + 1))
    return draw(_integers(low, high))


def choose(draw: Draw, options: Sequence[Option]) -> Option:
    """Draw one of the options. Shrinks to the first. An option listed twice is drawn twice as often."""
    return options[between(draw, 0, len(options) - 1)]


def seed(draw: Draw) -> int:
    """Draw a seed for a seeded background."""
    return between(draw, 0, 2**16)


def some(draw: Draw, options: Sequence[Option], fewest: int, most: int) -> tuple[Option, ...]:
    """Draw between `fewest` and `most` options; an option may be drawn more than once."""
    return tuple(choose(draw, options) for _ in range(between(draw, fewest, most)))
