"""Magnitudes of a head. A bound uses those of its own head: a neighbour does not widen it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmat.testing.oracle.arithmetic import Array


def largest(x: Array) -> Array:
    """Return the largest magnitude of each head of x (B, NH, .., ..), at least 1, (B, NH)."""
    return np.asarray(np.abs(x).max((-2, -1), initial=1.0))


def of_heads(x: Any, like: Array) -> Any:
    """Return x (B, NH) with axes of one after it, so that it broadcasts to `like` (B, NH, ..)."""
    return x.reshape(*x.shape, *(1,) * (like.ndim - 2))
