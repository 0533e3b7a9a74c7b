"""How far the skip D v and the gate z may round: docs/fused.md section 8. Arrays are (B, NH, S, V)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.bounds.formats import FusedRounding, gamma
from dmat.testing.oracle.after import After, sigmoid
from dmat.testing.oracle.arithmetic import Array

OF_SILU = 10  # roundings of z sigmoid(z), beside its exponential's argument
OF_SKIP = 6  # product, sum, casts and copies


@dataclass(frozen=True)
class AfterErrors:
    """The errors of one call's skip and gate."""

    after: After
    rounding: FusedRounding

    @property
    def is_plain(self) -> bool:
        """Whether there is neither."""
        return self.after.inputs.D is None and self.after.inputs.z is None

    @cached_property
    def relative(self) -> Array | float:
        """The relative error of silu(z): u_a (4 |z| sigmoid(-z) + 10) + 2 u_m."""
        z = self.after.inputs.z
        if z is None:
            return 0.0
        return self.rounding.u_a * (4 * np.abs(z) * sigmoid(-z) + OF_SILU) + 2 * self.rounding.u_m

    @cached_property
    def of_rows(self) -> Array | float:
        """The relative error of the cotangent of the sums: the largest of a row, (B, NH, t, 1)."""
        if self.after.inputs.z is None:
            return 0.0
        largest = np.asarray(self.relative).max(-1, keepdims=True, initial=0.0)
        return self.after.inputs.heads.each(largest)

    @property
    def skipped(self) -> float:
        """The relative error of D v: u_a 6 + 4 u_m."""
        return OF_SKIP * self.rounding.u_a + 4 * self.rounding.u_m

    @cached_property
    def skip_sizes(self) -> Array:
        """|D v|."""
        return np.asarray(np.abs(self.after.skip * self.after.v))

    def before(self, error: Array, o: Array) -> Array:
        """Return the error of y = o + D v, of that of o."""
        if self.after.inputs.D is None:
            return error
        return np.asarray(error + self.skipped * (np.abs(o) + error + self.skip_sizes))

    def output(self, error: Array, o: Array) -> Array:
        """Return the error of y silu(z): dy |silu| (1 + r) + |y| |silu| r."""
        if self.is_plain:
            return error
        y, silu = np.abs(o + self.after.skip * self.after.v), np.abs(self.after.silu)
        dy = self.before(error, o)
        return np.asarray(dy * silu * (1 + self.relative) + y * silu * self.relative)

    def lost(self, o: Array, lost: Array) -> Array:
        """Return what underflow may lose of y silu(z): `lost`, that of o, and tiny (4 + |y|)(1 + |z|)."""
        if self.is_plain:
            return lost
        z = 0.0 if self.after.inputs.z is None else np.abs(self.after.inputs.z)
        y = np.abs(o) + self.skip_sizes
        return np.asarray(lost * (1 + z) + self.rounding.tiny * (4 + y) * (1 + z))

    def sizes(self, sizes: Array) -> Array:
        """Return the largest of what the result passes through, where `sizes` are those of the terms of o."""
        if self.is_plain:
            return sizes
        return np.asarray((sizes + self.skip_sizes) * np.maximum(1.0, np.abs(self.after.silu)))

    @cached_property
    def largest(self) -> Array | float:
        """The largest factor of a head, (B, NH), that may multiply a loss: |z|, |D|, at least 1."""
        if self.is_plain:
            return 1.0
        B, NH = self.after.v.shape[:2]
        z, D = (np.ones((1, 1, 1, 1)) if x is None else x for x in (self.after.inputs.z, self.after.inputs.D))
        found = [np.broadcast_to(np.abs(x).max((-1, -2), initial=1.0), (B, NH)) for x in (z, D)]
        return self.after.inputs.heads.each(found[0] * found[1])

    # Gradients

    def of_v(self, error: Array, size: Array, value: Array, inner: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of v. error, size: those of the sums.

        value: the whole gradient. D W adds its own error, and each part may be stored before they are added.
        """
        if self.after.inputs.D is None:
            return error, size
        part, u = np.abs(self.after.skip * inner), self.rounding.products.u
        stored = u * (np.abs(value) + 2 * part + error) + 2 * self.rounding.products.floor
        return error + part * (self.skipped + self.relative) + stored, size + part

    def of_z(self, W: Array, error: Array, o: Array, sizes: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of z, W y silu'(z). error, sizes: of the sums.

        |W| ((dy + u (|o| + |D v|)) |silu'| + |y| d), d = u_a ((8 + 4 |z|) |silu'|_terms + 4 |z| s) + 2 u_m
        (s + |z| s): a backward may read y as it was stored, and take 1 - s of a rounded s.
        """
        z, W = self.after.inputs.z, np.abs(W)
        assert z is not None
        s, far, u = sigmoid(z), np.abs(z), self.rounding.output.u
        terms = s + far * s * sigmoid(-z)
        y = np.abs(o) + self.skip_sizes
        dy = self.before(error, o) + u * (y + error) + self.rounding.output.floor
        d = self.rounding.u_a * ((8 + 4 * far) * terms + 4 * far * s) + 2 * self.rounding.u_m * (1 + far) * s
        return W * (dy * (terms + d) + y * d), W * (sizes + self.skip_sizes) * terms

    def of_D(self, inner: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of D, a sum over batches, times and columns."""
        each = np.abs(inner * self.after.v)
        size = self.after.summed(each)
        N = each.size / max(each.shape[1], 1)
        return self.after.summed(each * (self.skipped + self.relative)) + gamma(
            N, self.rounding.u_a
        ) * size, size
