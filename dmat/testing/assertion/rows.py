"""The true values of a sum, a block of rows at a time: memory grows with S, not with S x S.

A block has the rows first <= t < end and the sources s < end. Its arrays are those of
dmat.testing.oracle.fused with (t, s) of that shape: sums over windows begin from the last row of the block
before it. What a gradient sums over rows is added up block by block.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dmat.testing.oracle.after import After
from dmat.testing.oracle.arithmetic import Array, Mask, holds
from dmat.testing.oracle.fused import U64, Pulled, Truth
from dmat.testing.oracle.fused_inputs import CallInputs

Times = npt.NDArray[np.int_]

BLOCK = 2**19  # entries of a block: some 30 arrays of so many float64 are held at once


@dataclass(frozen=True)
class HeadInputs(CallInputs):
    """The inputs of one call without states: q, k, v of all times."""

    @cached_property
    def crossing(self) -> Array:
        """No state is handed over."""
        return np.zeros((1, 1))

    def spans(self) -> list[tuple[int, int]]:
        """Return the first and the last time (exclusive) of each block."""
        heads, S, found = self.q.shape[0] * self.q.shape[1], self.S, [0]
        while found[-1] < S:
            found.append(min(S, found[-1] + max(1, BLOCK // (heads * S))))
        return list(itertools.pairwise(found))

    def rows(self, first: int, end: int) -> RowInputs:
        """Return the inputs of a block: q of its rows, the others of its sources."""
        own = {name: getattr(self, name)[:, :, :end] for name in ("k", "v", "igate", "fgate")}
        more = {
            name: getattr(self, name) for name in ("begins", "packed", "heads", "gate", "A_log", "dt_bias")
        }
        return RowInputs(self.q[:, :, first:end], **own, **more, whole=self, first=first)


@dataclass(frozen=True)
class RowInputs(CallInputs):
    """The inputs of a block of rows. whole: those of the call. first: the first row."""

    whole: HeadInputs = field(kw_only=True)
    first: int = field(kw_only=True)

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return self.whole.S

    @property
    def times(self) -> slice:
        """The rows of the block."""
        return slice(self.first, self.fgate.shape[2])

    @property
    def positions(self) -> tuple[Times, Times]:
        """The rows t, (T, 1), and the sources s, (1, S')."""
        s = np.arange(self.fgate.shape[2])
        return s[self.times, None], s[None, :]

    @cached_property
    def crossing(self) -> Array:
        """No state is handed over."""
        return self.whole.crossing

    @cached_property
    def unread(self) -> Mask:
        """The sources that each row does not read."""
        (t, s), sequence = self.positions, self.whole.sequence[: self.fgate.shape[2]]
        other = sequence[self.times, None] != sequence[None, :]
        return np.asarray((s > t) | other | holds(self.closed, self.times))


def windows_of(terms: Array, rows: slice, before: Array | None) -> Array:
    """Sum terms[..., k] over s < k <= t, for the rows t. before: the sums at the last row before, or None."""
    s, T = np.arange(terms.shape[-1]), rows.stop - rows.start
    each = np.where(s < s[rows, None], terms[..., rows, None], 0.0)
    if before is not None and T:
        each[..., 0, : before.shape[-1]] += before
    return np.asarray(np.cumsum(each, axis=-2))


def product(left: Array, right: Array) -> Array:
    """Return left right', by rows."""
    return np.asarray(left @ np.swapaxes(right, -1, -2))


@dataclass(frozen=True)
class RowTruth(Truth):
    """The true values of a block of rows. carried: sums at the last row before it, by name."""

    inputs: RowInputs
    carried: Mapping[str, Array]

    @cached_property
    def windows(self) -> Array:
        """The sum of l over s < k <= t."""
        return windows_of(self.log, self.inputs.times, self.carried.get("windows"))

    @cached_property
    def products(self) -> Array:
        """scale (q_t . k_s)."""
        return self.scale * product(self.inputs.q, self.inputs.k)

    @cached_property
    def product_sizes(self) -> Array:
        """scale (|q_t| . |k_s|)."""
        return self.scale * product(np.abs(self.inputs.q), np.abs(self.inputs.k))

    @cached_property
    def after(self) -> After:
        """The skip D v and the gate z of these rows."""
        whole, rows = self.inputs.whole, self.inputs.times
        z = None if whole.z is None else whole.z[:, :, rows]
        return After(replace(whole, v=whole.v[:, :, rows], z=z))

    @cached_property
    def own_error(self) -> Array:
        """A bound on the relative error of this module's E."""
        t, s = self.inputs.positions
        reach = -self.windows + np.abs(self.inputs.igate)[..., None, :] + 1
        reach = self.reads.exponent(reach, self.product_sizes)
        return np.asarray(U64 * (np.maximum(t - s, 0) + self.inputs.S + self.inputs.K + 24) * reach)

    def pulled(self, W: Array) -> RowPulled:
        """Return the gradients' terms for the cotangent of these rows."""
        return RowPulled(self, W)


@dataclass(frozen=True)
class RowPulled(Pulled):
    """The terms of gradients in a block of rows. W: the cotangent of these rows."""

    truth: RowTruth

    @cached_property
    def slope(self) -> Array:
        """d L / d a[t, s], times the normaliser."""
        plain = product(self.W_each, self.truth.inputs.v)
        if not self.truth.reads.normalised or self.truth.contract.gradient == "truncated":
            return plain
        return np.asarray(plain - (self.along * self.truth.reads.slope(self.truth.n))[..., None])

    @cached_property
    def slope_sizes(self) -> Array:
        """The magnitude of the terms of the slope."""
        plain = product(np.abs(self.W_each), np.abs(self.truth.inputs.v))
        if not self.truth.reads.normalised:
            return plain
        return np.asarray(plain + np.abs(self.along)[..., None])


class Collected(dict[str, Any]):
    """Arrays of all rows by name: what blocks have is put behind one another, or added up."""

    def __init__(self, S: int) -> None:
        """Begin with none. S: the length of the sequence."""
        super().__init__()
        self.S = S

    def _zeros(self, name: str, x: Array) -> Array:
        if name not in self:
            self[name] = np.zeros((*x.shape[:2], self.S, *x.shape[3:]))
        found: Array = self[name]
        return found

    def put(self, name: str, rows: slice, x: Array) -> None:
        """Put x, (B, NH, T, ...), at these rows."""
        self._zeros(name, x)[:, :, rows] = x

    def add(self, name: str, x: Array) -> None:
        """Add x, (B, NH, S', ...), to the first S' times."""
        self._zeros(name, x)[:, :, : x.shape[2]] += x


@dataclass(frozen=True)
class HeadTruth(Truth):
    """The true values of a call, of which blocks of rows were collected."""

    inputs: HeadInputs
    collected: Collected

    @cached_property
    def sums(self) -> Array:
        """The output before the skip and the gate z."""
        return np.asarray(self.collected["sums"])

    @cached_property
    def o_slack(self) -> Array:
        """A bound on the error of o."""
        return np.asarray(self.collected["o_slack"])

    def pulled(self, W: Array) -> HeadPulled:
        """Return the gradients for the cotangent W, of which blocks of rows were collected."""
        return HeadPulled(self, W)


@dataclass(frozen=True)
class HeadPulled(Pulled):
    """The gradients of a call, of which blocks of rows were collected."""

    truth: HeadTruth

    @cached_property
    def dl(self) -> Array:
        """The gradient of the log gates."""
        return np.asarray(self.truth.collected["dl"])

    @cached_property
    def of_weight(self) -> Array:
        """The gradient of the weight w."""
        return np.asarray(self.truth.collected["of_weight"])

    @cached_property
    def di_each(self) -> Array:
        """The gradient of the input gate of each head of the oracle."""
        return np.asarray(self.truth.collected["di_each"])

    @cached_property
    def dq_each(self) -> Array:
        """The gradient of what each value head reads as q."""
        return np.asarray(self.truth.collected["dq_each"])

    @cached_property
    def dk_each(self) -> Array:
        """The gradient of what each value head reads as k."""
        return np.asarray(self.truth.collected["dk_each"])

    @cached_property
    def dv_each(self) -> Array:
        """The gradient of what each head of the oracle reads as v."""
        return np.asarray(self.truth.collected["dv_each"])
