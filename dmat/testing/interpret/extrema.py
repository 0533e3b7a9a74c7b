"""tl.maximum, tl.minimum and tl.clamp drop a NaN, unless told to keep it: so does the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter


def maximum(self: Any, x: Any, y: Any) -> Any:
    """Return the greater of two, or the one that is a number."""
    return self.binary_op(x, y, np.fmax)


def minimum(self: Any, x: Any, y: Any) -> Any:
    """Return the smaller of two, or the one that is a number."""
    return self.binary_op(x, y, np.fmin)


def clamp(self: Any, x: Any, low: Any, high: Any, propagate_nans: Any) -> Any:
    """Return what is nearest to x between the two; of a NaN, the lower one, unless it is kept."""
    if propagate_nans == interpreter._ir.PROPAGATE_NAN.ALL:
        return self.ternary_op(x, low, high, np.clip)
    return minimum(self, maximum(self, x, low), high)


def mend() -> None:
    """Put them in the place of the interpreter's, which keep every NaN."""
    builder = interpreter.InterpreterBuilder
    builder.create_maxnumf, builder.create_minnumf, builder.create_clampf = maximum, minimum, clamp
