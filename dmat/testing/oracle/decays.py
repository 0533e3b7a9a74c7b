"""The decays exp(D~) in the output of a fused kernel: the column and the multiplier of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused import Truth


@dataclass(frozen=True)
class Decays:
    """The place of exp(D~) in an output o[t, c]: source s has its own column, and is scaled by a factor.

    column: the column of each source s, (S,). factor: the multiplier of exp(D~)[t, s], (B, NH, t, s).
    """

    column: Array
    factor: Array

    @classmethod
    def of(cls, truth: Truth) -> Decays | None:
        """Return the decays if every source has its own column of v, the same in all heads; else None.

        None too if gates differ by channel: an entry has a decay of each channel; or if there is a D or z.
        """
        if truth.inputs.by_channel or truth.inputs.D is not None or truth.inputs.z is not None:
            return None
        there = truth.inputs.v != 0  # (B, NH, s, c)
        if 0 in there.shape or not (there == there[:1, :1]).all():
            return None
        one = there[0, 0]
        if not ((one.sum(0) <= 1).all() and (one.sum(1) == 1).all()):
            return None
        column = one.argmax(1)
        values = np.take_along_axis(truth.inputs.v, column[None, None, :, None], -1)[..., 0]
        factor = truth.reads.coefficient(truth.weight * np.ones_like(truth.E), truth.products)
        factor = factor * values[..., None, :] / truth.normaliser
        return cls(column, factor) if (factor != 0).all() and np.isfinite(factor).all() else None

    def read(self, output: Array) -> Array:
        """Return exp(D~), (B, NH, t, s), from an output, (B, NH, t, c)."""
        return output[..., self.column] / self.factor
