"""True values and bounds of the latest call: a law that judges one call several times computes them once."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.formats import FusedRounding
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import DeltaPulled, DeltaTruth
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.oracle.fused_inputs import CallInputs


def _same(one: CallInputs, other: CallInputs) -> bool:
    """Return whether both hold the same values. NaN differs from NaN, which only costs time."""
    if (one.begins, one.packed) != (other.begins, other.packed):
        return False
    names = ("q", "k", "v", "igate", "fgate", "beta", "state", "A_log", "dt_bias")
    return all(_equal(getattr(one, name), getattr(other, name)) for name in names)


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


class LatestDelta:
    """The true values, the bounds and the gradients of a delta rule that were made last."""

    def __init__(self) -> None:
        """Begin with none."""
        self._truth: DeltaTruth | None = None
        self._bounds: tuple[tuple[Any, ...], DeltaBounds] | None = None
        self._pulled: DeltaPulled | None = None

    def truth(self, contract: FusedContract, inputs: CallInputs) -> DeltaTruth:
        """Return the true values of a call with these inputs under this contract."""
        last = self._truth
        if last is None or last.contract is not contract or not _same(last.inputs, inputs):
            self._truth = last = DeltaTruth(contract, inputs)
        return last

    def bounds(
        self, truth: DeltaTruth, contract: FusedContract, rounding: FusedRounding, u_i: float
    ) -> DeltaBounds:
        """Return the bounds of these true values."""
        last = self._bounds
        if last is None or last[0][0] is not truth or last[0][1:] != (contract, rounding, u_i):
            made = DeltaBounds(truth, contract, rounding, u_i)
            self._bounds = last = ((truth, contract, rounding, u_i), made)
        return last[1]

    def pulled(self, truth: DeltaTruth, W: Array, W_state: Array) -> DeltaPulled:
        """Return the true gradients for the cotangents W of o and W_state of the last state."""
        last = self._pulled
        same = last is not None and last.truth is truth and np.array_equal(last.W, W)
        if last is None or not same or not np.array_equal(last.W_state, W_state):
            self._pulled = last = DeltaPulled(truth, W, W_state)
        return last


class Latest:
    """The true values, the bounds and the gradients that were made last. Equal arguments get them again."""

    def __init__(self) -> None:
        """Begin with none."""
        self._truth: Truth | None = None
        self._bounds: tuple[tuple[Any, ...], FusedBounds] | None = None
        self._pulled: Pulled | None = None

    def truth(self, contract: FusedContract, inputs: CallInputs) -> Truth:
        """Return the true values of a call with these inputs under this contract."""
        last = self._truth
        if last is None or last.contract is not contract or not _same(last.inputs, inputs):
            self._truth = last = Truth(contract, inputs)
        return last

    def bounds(self, truth: Truth, contract: FusedContract, rounding: FusedRounding) -> FusedBounds:
        """Return the bounds of these true values."""
        last = self._bounds
        if last is None or last[0][0] is not truth or last[0][1:] != (contract, rounding):
            self._bounds = last = ((truth, contract, rounding), FusedBounds(truth, contract, rounding))
        return last[1]

    def pulled(self, truth: Truth, W: Array) -> Pulled:
        """Return the true gradients for the cotangent W."""
        last = self._pulled
        if last is None or last.truth is not truth or not np.array_equal(last.W, W):
            self._pulled = last = Pulled(truth, W)
        return last
