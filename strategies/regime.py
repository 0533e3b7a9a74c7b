"""Which regime a recipe's gates are in, and which class its length: what a run says it has tried."""

from __future__ import annotations

import numpy as np
import torch

from dmat.strategies.gates import UNIT, Gates, MinusWindow
from dmat.strategies.values import Array

REGIMES = (
    "empty",
    "exact",
    "special",
    "extreme",
    "saturated",
    "subnormal",
    "cancelling",
    "zeros",
    "ordinary",
)
LENGTHS = ("S = 0", "S = 1", "S = 2 .. 5", "S = 6 .. 24", "S = 25 .. 150", "S > 150")
_ENDS = (0, 1, 5, 24, 150)
LARGEST_ORDINARY, LARGEST_SATURATED = 8.0, 1000.0


def length_class(S: int) -> str:
    """Return the class of a length, one of LENGTHS."""
    return LENGTHS[sum(S > end for end in _ENDS)]


def regime(gates: Gates) -> str:
    """Return the regime of both gates, the first of REGIMES that fits.

    exact: integers of docs/spec.md section 4. special: an infinity or NaN. extreme: beyond 1000 in
    magnitude. saturated: beyond 8. subnormal: some value is, in the dtype. cancelling: the input gate is
    minus a window's sum. zeros: all forget gates 0.
    """
    if 0 in gates.shape:
        return "empty"
    fgate = gates.fgate.fill(gates.shape)
    cancelling = isinstance(gates.igate, MinusWindow)
    igate = np.zeros(1) if cancelling else gates.igate.fill(gates.shape)
    size = np.maximum(np.abs(fgate).max(), np.abs(igate).max())  # NaN if either is
    if _is_exact(igate, fgate):
        return "exact"
    if not np.isfinite(size):
        return "special"
    if size > LARGEST_ORDINARY:
        return "extreme" if size > LARGEST_SATURATED else "saturated"
    if any(_is_subnormal(gate, gates.dtype) for gate in (igate, fgate)):
        return "subnormal"
    if cancelling:
        return "cancelling"
    return "ordinary" if fgate.any() else "zeros"


def _is_exact(igate: Array, fgate: Array) -> bool:
    closed = np.where(fgate == np.inf, -UNIT, fgate)
    if not (np.isfinite(closed).all() and np.isfinite(igate).all()):
        return False
    return bool((closed <= -UNIT).all() and not (closed % UNIT).any() and not (igate % UNIT).any())


def _is_subnormal(gate: Array, dtype: str) -> bool:
    return bool(((gate != 0) & (np.abs(gate) < torch.finfo(getattr(torch, dtype)).smallest_normal)).any())
