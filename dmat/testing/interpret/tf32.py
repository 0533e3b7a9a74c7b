"""Patch tl.dot of float32 with input_precision="tf32", Triton's default: round operands as tensor cores do.

Operands are rounded to 10 fraction bits, to nearest even. "ieee" and "tf32x3" are not patched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton import language
from triton.runtime import interpreter


def tf32(x: Any) -> Any:
    """Round float32 to TF32, to nearest even; infinities and NaN stay."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 13) & 1) + 0xFFF)) & 0xFFFFE000
    return np.where(np.isfinite(x), rounded, bits).view(np.float32)


def patch() -> None:
    """Replace create_dot: round the float32 operands of a tl.dot in TF32."""
    builder = interpreter.InterpreterBuilder
    plain = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, *others: Any) -> Any:
        if input_precision == interpreter._ir.INPUT_PRECISION.TF32:
            a, b = (
                interpreter.TensorHandle(tf32(x.data), x.dtype) if x.dtype.scalar == language.float32 else x
                for x in (a, b)
            )
        return plain(self, a, b, d, input_precision, *others)

    builder.create_dot = create_dot
