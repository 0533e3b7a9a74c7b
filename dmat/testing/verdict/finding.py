"""Findings of broken laws: the finding, its evidence, and the expected value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flint import arb

from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.formats import Bound
from dmat.testing.oracle.arithmetic import FINITE, Array, Kind, Mask, Pair
from dmat.testing.record import Ended, What

AXES = {
    "D~": ("b", "h", "t", "s"),
    "o": ("b", "h", "t", "c"),
    "exp(D~)": ("b", "h", "t", "s"),
    "dl": ("b", "h", "k"),
    "dq": ("b", "h", "t", "d"),
    "dk": ("b", "h", "s", "d"),
    "dv": ("b", "h", "s", "c"),
    "di": ("b", "h", "s"),
    "df": ("b", "h", "k"),
    "J v": ("b", "h", "t", "s"),
    "d<v, J' G>/dG": ("b", "h", "t", "s"),
    "d<v, J' G>/df": ("b", "h", "k"),
}


@dataclass(frozen=True)
class Evidence:
    """The whole tensors around a finding, which is one of their entries.

    All have the axes of AXES[quantity], or are parts of such an array. computed, exact: float64, exact to
    some 15 digits. allowed: the absolute error allowed, 0 where bits are compared. wrong: the entries that
    break the law. judged: the entries that the law speaks of. truth: the array `exact` was computed from
    (exact = times x truth), if it came from another call. overflow: the entries that need not be finite.
    decays: where exp(D~) stands in the entries (dmat.testing.explain.decays), or None.
    """

    computed: Array
    exact: Array
    allowed: Array
    wrong: Mask
    judged: Mask
    truth: Array | None = None
    times: float = 1.0
    overflow: Mask | None = None
    decays: Any = None

    @property
    def ratio(self) -> Array:
        """Error over allowed: 0 where equal, inf where a class differs or no error is allowed."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.abs(self.computed - self.exact)
            equal = (self.computed == self.exact) | (np.isnan(self.computed) & np.isnan(self.exact))
            ratio = np.where(equal | (error == 0), 0.0, error / self.allowed)
        unlike = self.wrong & ~np.isfinite(ratio)
        return np.where(unlike, np.inf, np.where(self.judged, np.nan_to_num(ratio, posinf=np.inf), 0.0))


@dataclass(frozen=True)
class Finding:
    """One broken entry: which, what was computed, what is true, and how far apart they may be.

    error and allowed are absolute, in the unit of the entry; None where a class or a bit differs.
    evidence: all entries that were judged with it; None of what has no entries.
    what: the way in which it is wrong. "value": two numbers differ. "class": one is NaN or infinite.
    "raised": the call raised. "shape": the tensor has a wrong shape, dtype, device or layout. "memory": it
    shares memory, or takes too much. "died": the process died or did not end.
    detail: of "raised", the name of the exception's class; of "class", the class that the entry must have,
    "" for a number; of "shape", the attributes that were compared, "" for all; of "memory", the input whose
    memory is shared, or the most bytes, as a product.
    """

    quantity: str
    index: tuple[int, ...]
    computed: str
    exact: str
    error: float | None = None
    allowed: float | None = None
    note: str = ""
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    _: KW_ONLY
    what: What
    detail: str = ""

    def lines(self) -> list[str]:
        """Return the finding as the message shows it."""
        names = AXES.get(self.quantity, ())
        where = ", ".join(f"{axis}={n}" for axis, n in zip(names, self.index, strict=False))
        lines = [f"{self.quantity}[{where}]" if where else self.quantity]
        lines += [f"  computed  {self.computed}", f"  exact     {self.exact}"]
        if self.error is not None and self.allowed is not None:
            times = self.error / self.allowed if self.allowed else math.inf
            lines.append(f"  error     {self.error:.3g} = {times:.3g} x the {self.allowed:.3g} allowed")
        return [*lines, f"  {self.note}"] if self.note else lines


class LawBroken(AssertionError):
    """A law does not hold. `finding` says where; the runner adds the law and the case."""

    def __init__(self, finding: Finding) -> None:
        """Keep the finding; str() of the exception is its lines."""
        super().__init__("\n".join(finding.lines()))
        self.finding = finding


@dataclass(frozen=True)
class Expected:
    """What one tensor must be: its truth, how well the truth is known, and how far rounding may go.

    value and slack: the truth and a bound on its own error. ball: encloses the truth of one entry.
    """

    quantity: str
    kind: Kind
    value: Pair
    slack: Array
    bound: Bound
    ball: Callable[[tuple[int, ...]], arb]
    note: str = ""
    decays: Any = None

    def freed(self, where: Mask) -> Expected:
        """Return the same with nothing required of the entries where told."""
        free = np.asarray(self.bound.free | where)
        return replace(self, bound=replace(self.bound, free=free))

    def noted(self, note: str) -> Expected:
        """Return the same with a note on what was done."""
        return replace(self, note=note)

    def part(self, where: tuple[slice, ...]) -> Expected:
        """Return what is expected of a block of the entries, slices with a start of 0 or more."""
        starts = [piece.start or 0 for piece in where]

        def ball(index: tuple[int, ...]) -> arb:
            return self.ball(tuple(n + start for n, start in zip(index, starts, strict=True)))

        bound = Bound(self.bound.bound[where], self.bound.overflow[where], self.bound.free[where])
        value, slack = self.value[where], self.slack[where]
        return Expected(self.quantity, self.kind[where], value, slack, bound, ball)

    @property
    def known(self) -> Mask:
        """Where the truth is a number and the contract promises something."""
        return np.asarray((self.kind == FINITE) & ~self.bound.free)


def as_array(tensor: Any) -> Array:
    """Return the tensor's values as float64, which holds each of the four dtypes exactly, in a copy."""
    return np.asarray(tensor.detach().to("cpu", torch.float64, copy=True).numpy())


@dataclass(frozen=True)
class Look:
    """One case that breaks a law, and the finding on it."""

    case: Case
    finding: Finding


@dataclass(frozen=True)
class Failure:
    """A case and how it broke a law. again: it does so each time, as far as was tried.

    ended: "broken", or "died" or "did not end" of the process.
    """

    case: Case
    broken: LawBroken
    again: bool = True
    ended: Ended = "broken"
