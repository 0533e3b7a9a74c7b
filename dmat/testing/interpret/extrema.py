"""Patch tl.maximum, tl.minimum and tl.clamp: they drop a NaN by default, as on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter


def maximum(self: Any, x: Any, y: Any) -> Any:
    """Return the larger of x and y; if one is NaN, the other."""
    return self.binary_op(x, y, np.fmax)


def minimum(self: Any, x: Any, y: Any) -> Any:
    """Return the smaller of x and y; if one is NaN, the other."""
    return self.binary_op(x, y, np.fmin)


def clamp(self: Any, x: Any, low: Any, high: Any, propagate_nans: Any) -> Any:
    """Return x clipped to [low, high]; for a NaN return low, unless propagate_nans is ALL."""
    if propagate_nans == interpreter._ir.PROPAGATE_NAN.ALL:
        return self.ternary_op(x, low, high, np.clip)
    return minimum(self, maximum(self, x, low), high)


def patch() -> None:
    """Replace the interpreter's functions, which keep every NaN."""
    builder = interpreter.InterpreterBuilder
    builder.create_maxnumf, builder.create_minnumf, builder.create_clampf = maximum, minimum, clamp
