"""The bounds of dmat.testing.bounds.fused, a block of rows at a time, and of the call from its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.assertion.rows import (
    Collected,
    HeadInputs,
    HeadPulled,
    HeadTruth,
    RowPulled,
    RowTruth,
    windows_of,
)
from dmat.testing.bounds.formats import FusedRounding
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.heads import largest
from dmat.testing.bounds.scope import scope_sums
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.fused import Pulled, rectangles

ENTRIES = ("error", "size", "counted")


@dataclass(frozen=True)
class HeadBounds(FusedBounds):
    """The bounds of a call, of which blocks of rows were collected."""

    truth: HeadTruth

    @cached_property
    def largest_product(self) -> Array:
        """The largest scale |q_t| . |k_s| of a head, at least 1."""
        blocks = [self.rows(*span, {}).truth.product_sizes for span in self.truth.inputs.spans()]
        none = np.ones(self.truth.inputs.q.shape[:2])
        return np.asarray(np.max([none, *map(largest, blocks)], axis=0))

    @cached_property
    def stabiliser(self) -> tuple[Array, Array]:
        """The smallest and the largest m of each row."""
        return self.truth.collected["low"], self.truth.collected["high"]

    @cached_property
    def o_error(self) -> Array:
        """The error of the output before it is stored."""
        return np.asarray(self.truth.collected["o_error"])

    @cached_property
    def o_sizes(self) -> Array:
        """The magnitude of the terms of the output."""
        return np.asarray(self.truth.collected["o_sizes"])

    @cached_property
    def grown(self) -> Array:
        """The growth of a loss to underflow."""
        return np.asarray(self.truth.collected["grown"])

    def rows(self, first: int, end: int, carried: Mapping[str, Array]) -> RowBounds:
        """Return the bounds of a block of rows. carried: sums at the last row before it, by name."""
        truth = RowTruth(self.truth.contract, self.truth.inputs.rows(first, end), carried)
        return RowBounds(truth, self.contract, self.rounding, self)

    # Gradients

    def entries(self, pulled: Pulled) -> tuple[Array, Array, Array, Array]:
        """Return the errors, magnitudes and numbers of entries, summed within blocks, and `from_start`."""
        found = self.truth.collected
        error, size, counted = (found[name] for name in ENTRIES)
        return error, size, counted, found["from_start"]

    def over_grad_scope(self, X: Array) -> Array:
        """Return the sums over the gradient's scope, from those of rows or of columns."""
        match self.contract.widest_gradient:
            case "suffix":
                return super().over_grad_scope(X[..., None])
            case "prefix":
                return super().over_grad_scope(X[..., None, :])
        return X

    def of_weight(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of the weight w."""
        return self._both("weight")

    def _of_igate(self, pulled: Pulled) -> tuple[Array, Array]:
        return self._both("i")

    def _of_v(self, pulled: Pulled) -> tuple[Array, Array]:
        return self._both("v")

    def _of_key(self, name: str, pulled: Pulled) -> tuple[Array, Array]:
        return self._both(name)

    def _both(self, name: str) -> tuple[Array, Array]:
        found = self.truth.collected
        return found[f"{name} error"], found[f"{name} size"]


@dataclass(frozen=True)
class RowBounds(FusedBounds):
    """The bounds of a block of rows. head: those of the call, whose numbers of a head it uses."""

    truth: RowTruth
    head: HeadBounds

    @cached_property
    def factors(self) -> Array:
        """J, the number of exponentials whose product is E."""
        stated, (t, s) = self.contract.factors, self.truth.inputs.positions
        if stated == "one":
            return np.ones((1, 1))
        if stated == "steps":
            return np.asarray(np.maximum(t - s, 0) + 1.0)
        begin = self.truth.inputs.whole.begin
        chunk = (np.arange(len(begin)) - begin) // int(stated) + begin
        return np.asarray(np.maximum(chunk[t] - chunk[s], 0) + 3.0)

    def over_scope(self, terms: Array, windows: Array) -> Array:
        """Sum the magnitudes in each entry's error scope."""
        if self.contract.error_scope == "window":
            return windows
        starts = (start[: windows.shape[-1]] for start in self.head.starts)
        return np.asarray(np.max([scope_sums(start, terms, windows) for start in starts], axis=0))

    @cached_property
    def length(self) -> Array:
        """n, the number of terms in the error scope."""
        t, s = self.truth.inputs.positions
        if self.contract.error_scope == "window":
            return np.asarray(np.maximum(t - s, 0).astype(np.float64))
        start = np.min(self.head.starts, axis=0)[None, : s.shape[-1]]
        return np.asarray(np.maximum(t - start, 0) + 2.0)

    @cached_property
    def since(self) -> Array:
        """The sum of l since the call began."""
        return self.head.since[..., self.truth.inputs.times]

    @cached_property
    def stabiliser(self) -> tuple[Array, Array]:
        """The smallest and the largest m of each row."""
        with np.errstate(invalid="ignore"):
            low = np.max(self.truth.exponent, -1, initial=-np.inf)
        low = np.where(np.isfinite(low), low, 0.0)
        igate = np.maximum.accumulate(self.truth.inputs.igate, axis=-1)[..., self.truth.inputs.times]
        return low, self.truth.reads.stabiliser(low, self.since, igate)

    @cached_property
    def reached(self) -> Array:
        """The largest |m| up to each row."""
        sizes = np.maximum(*map(np.abs, self.stabiliser))
        before = self.truth.carried.get("reached", 0.0)
        return np.asarray(np.maximum(np.maximum.accumulate(sizes, axis=-1), before))

    @cached_property
    def _condition(self) -> Array:
        return windows_of(self.truth.condition, self.truth.inputs.times, self.truth.carried.get("condition"))

    def _windows_of(self, terms: Array) -> Array:
        return self._condition if terms.any() else np.zeros_like(self.truth.windows)

    @cached_property
    def additions(self) -> Array:
        """The most additions of a column of the output."""
        return self.head.additions

    @cached_property
    def lost_each(self) -> Array:
        """The loss of each head of the truth."""
        return self.head.lost_each

    @cached_property
    def overflows(self) -> Mask:
        """Whether an operand or a state of a head may overflow."""
        return self.head.overflows

    @property
    def carried(self) -> dict[str, Array]:
        """The sums at the last row, by name."""
        found = {"windows": self.truth.windows[..., -1, :]}
        if self.truth.condition.any():
            found["condition"] = self._condition[..., -1, :]
        if self.truth.reads.normalised:
            found["reached"] = self.reached[..., -1:]
        return {name: x.copy() for name, x in found.items()}


def collect(bounds: HeadBounds, W: Array | None, names: Iterable[str]) -> None:
    """Collect all blocks of rows. W: the cotangent of o, or None. names: the gradients that are judged."""
    into, carried = bounds.truth.collected, dict[str, Array]()
    with np.errstate(all="ignore"):
        for span in bounds.truth.inputs.spans():
            rows = bounds.rows(*span, carried)
            of_output(rows, into)
            if W is not None:
                of_gradients(rows, rows.truth.pulled(W[:, :, slice(*span)]), into, names)
            carried = rows.carried


def of_output(rows: RowBounds, into: Collected) -> None:
    """Put the output of a block of rows and its errors into the collection."""
    truth, at = rows.truth, rows.truth.inputs.times
    low, high = rows.stabiliser
    found = {"sums": truth.sums, "o_slack": truth.o_slack, "o_error": rows.o_error, "o_sizes": rows.o_sizes}
    for name, x in {**found, "grown": rows.grown, "low": low, "high": high}.items():
        into.put(name, at, x)


def of_gradients(rows: RowBounds, pulled: RowPulled, into: Collected, names: Iterable[str]) -> None:
    """Add what a block of rows adds to these gradients, and to their errors."""
    at, wanted = rows.truth.inputs.times, set(names)
    if "g" in wanted:
        _of_gate(rows, pulled, into)
    if "i" in wanted:
        into.add("di_each", pulled.di_each)
        _add_both(into, "i", rows._of_igate(pulled))
    if "v" in wanted:
        into.add("dv_each", pulled.dv_each)
        _add_both(into, "v", rows._of_v(pulled))
    if "k" in wanted:
        into.add("dk_each", pulled.dk_each)
        _add_both(into, "k", rows._of_key("k", pulled))
    if "q" in wanted:
        into.put("dq_each", at, pulled.dq_each)
        for name, x in zip(("q error", "q size"), rows._of_key("q", pulled), strict=True):
            into.put(name, at, x)


def _add_both(into: Collected, name: str, both: tuple[Array, Array]) -> None:
    for kind, x in zip(("error", "size"), both, strict=True):
        into.add(f"{name} {kind}", x)


def _of_gate(rows: RowBounds, pulled: RowPulled, into: Collected) -> None:
    """Add the gradient of the gate: entries summed over rows, columns or rectangles, as the scope says."""
    at, scope = rows.truth.inputs.times, rows.contract.widest_gradient
    into.add("dl", rectangles(pulled.X))
    *entries, from_start_ = rows.entries(pulled)
    into.put("from_start", at, from_start_)
    for name, x in zip(ENTRIES, entries, strict=True):
        if scope == "suffix":
            into.put(name, at, x.sum(-1))
        else:
            into.add(name, x.sum(-2) if scope == "prefix" else rectangles(x))
    if rows.truth.contract.weight == "dt":
        into.add("of_weight", pulled.of_weight)
        _add_both(into, "weight", rows.of_weight(pulled))


def judged(
    contract: FusedContract,
    inputs: HeadInputs,
    rounding: FusedRounding,
    W: Array | None,
    names: Iterable[str],
) -> tuple[HeadBounds, HeadPulled | None]:
    """Return the bounds of a call, and its gradients if there is a cotangent W."""
    truth = HeadTruth(contract, inputs, Collected(inputs.S))
    bounds = HeadBounds(truth, contract, rounding)
    collect(bounds, W, names)
    return bounds, None if W is None else truth.pulled(W)
