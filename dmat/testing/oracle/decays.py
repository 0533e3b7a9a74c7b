"""The decays exp(D~) of a fused kernel, as its output holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused import Truth


@dataclass(frozen=True)
class Decays:
    """How exp(D~) stands in an output: in `column`, (S,), of each source, times `factor`, (B, NH, t, s)."""

    column: Array
    factor: Array

    @classmethod
    def of(cls, truth: Truth) -> Decays | None:
        """Return it where every source has a column of its own, the same in all heads; else None."""
        there = truth.seen.v != 0  # (B, NH, s, c)
        if 0 in there.shape or not (there == there[:1, :1]).all():
            return None
        one = there[0, 0]
        if not ((one.sum(0) <= 1).all() and (one.sum(1) == 1).all()):
            return None
        column = one.argmax(1)
        values = np.take_along_axis(truth.seen.v, column[None, None, :, None], -1)[..., 0]
        factor = truth.reads.coefficient(truth.weight * np.ones_like(truth.E), truth.products)
        factor = factor * values[..., None, :] / truth.normaliser
        return cls(column, factor) if (factor != 0).all() and np.isfinite(factor).all() else None

    def read(self, output: Array) -> Array:
        """Return exp(D~), (B, NH, t, s), of an output, (B, NH, t, c)."""
        return output[..., self.column] / self.factor
