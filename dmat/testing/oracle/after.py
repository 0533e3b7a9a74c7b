"""What a kernel does to its sums before it returns them: the skip D v and the gate z (docs/fused.md, 8).

y = o + D v        result = y silu(z)        silu(z) = z sigmoid(z)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + e^-z)."""
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z > 0, 1.0, small) / (1 + small))


@dataclass(frozen=True)
class After:
    """The skip and the gate of one call. Arrays have the shape of the output, (B, NH, S, V)."""

    inputs: CallInputs

    @cached_property
    def v(self) -> Array:
        """v of the heads of the kernel."""
        return self.inputs.v[:, :: self.inputs.heads.parts]

    @property
    def skip(self) -> Array | float:
        """D, (1, NH, 1, 1 or V); 0 where there is none."""
        return 0.0 if self.inputs.D is None else self.inputs.D

    @cached_property
    def silu(self) -> Array | float:
        """silu(z); 1 where there is no z."""
        return 1.0 if self.inputs.z is None else np.asarray(self.inputs.z * sigmoid(self.inputs.z))

    @cached_property
    def slope(self) -> Array:
        """silu'(z) = s + z s (1 - s), s = sigmoid(z)."""
        z = self.inputs.z
        assert z is not None
        return np.asarray(sigmoid(z) + z * sigmoid(z) * sigmoid(-z))

    def output(self, o: Array) -> Array:
        """Return the result, of the sums o."""
        return np.asarray((o + self.skip * self.v) * self.silu)

    def slack(self, error: Array) -> Array:
        """Return the error of the result in float64, of that of the sums, which has 2^-50 of their terms."""
        sizes = 2.0**-50 * np.abs(self.skip * self.v)
        return np.asarray((error * (1 + 2.0**-50) + sizes) * np.abs(self.silu) * (1 + self._exponent))

    @property
    def _exponent(self) -> Array | float:
        """The relative error of silu(z) in float64, and what its exponential may lose."""
        return 0.0 if self.inputs.z is None else 2.0**-48 * (1 + np.abs(self.inputs.z))

    def pulled(self, W: Array) -> Array:
        """Return the cotangent of the sums, of that of the result."""
        return np.asarray(W * self.silu)

    def of_D(self, inner: Array) -> Array:
        """Return the gradient of D, (1, NH, 1), or (1, NH, V). inner: the cotangent of the sums."""
        return self.summed(inner * self.v)

    def summed(self, x: Array) -> Array:
        """Sum x, (B, NH, S, V), as the gradient of D does, into (1, NH, 1), or (1, NH, V) by channel."""
        assert self.inputs.D is not None
        total = x.sum((0, 2))
        total = total.sum(-1, keepdims=True) if self.inputs.D.shape[-1] == 1 else total
        return np.asarray(total[None])

    def of_z(self, W: Array, o: Array) -> Array:
        """Return the gradient of z, of the cotangent of the result and the sums o."""
        return np.asarray(W * (o + self.skip * self.v) * self.slope)


class AfterBalls:
    """The skip and the gate in balls, entry by entry."""

    def __init__(self, inputs: CallInputs) -> None:
        """Take the inputs of the call."""
        self.inputs, self.after = inputs, After(inputs)

    def D(self, h: int, c: int) -> arb:
        """Return D of head h and column c; 0 where there is none."""
        D = self.inputs.D
        return arb(0) if D is None else arb(float(D[0, h, 0, c if D.shape[-1] > 1 else 0]))

    def v(self, b: int, h: int, t: int, c: int) -> arb:
        """Return v."""
        return arb(float(self.after.v[b, h, t, c]))

    def silu(self, *index: int) -> arb:
        """Return silu(z); 1 where there is no z."""
        if self.inputs.z is None:
            return arb(1)
        z = arb(float(self.inputs.z[index]))
        return z / (1 + (-z).exp())

    def slope(self, *index: int) -> arb:
        """Return silu'(z)."""
        assert self.inputs.z is not None
        z = arb(float(self.inputs.z[index]))
        s = 1 / (1 + (-z).exp())
        return s + z * s / (1 + z.exp())

    def before(self, index: tuple[int, ...], o: arb) -> arb:
        """Return y = o + D v, of the sums o."""
        b, h, t, c = index
        return o if self.inputs.D is None else o + self.D(h, c) * self.v(b, h, t, c)

    def pulled(self, W: Array, b: int, h: int) -> Any:
        """Return the cotangent of the sums of head (b, h): that of W itself, or an array of balls."""
        if self.inputs.z is None:
            return W[b, h]
        inner = np.empty(W.shape[2:], dtype=object)
        for t, c in np.ndindex(*inner.shape):
            inner[t, c] = arb(float(W[b, h, t, c])) * self.silu(b, h, t, c)
        return inner
