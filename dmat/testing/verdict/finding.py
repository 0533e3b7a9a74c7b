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
    "dalpha": ("b", "h", "k"),
    "ddt": ("b", "h", "k"),
    "dA_log": ("b", "h", "d"),
    "dA": ("b", "h", "d"),
    "ddt_bias": ("b", "h", "d"),
    "dD": ("b", "h", "c"),
    "dz": ("b", "h", "t", "c"),
    "db": ("b", "h", "t"),
    "dbeta": ("b", "h", "t"),
    "S": ("b", "h", "d", "c"),
    "dS0": ("b", "h", "d", "c"),
    "J v": ("b", "h", "t", "s"),
    "d<v, J' G>/dG": ("b", "h", "t", "s"),
    "d<v, J' G>/df": ("b", "h", "k"),
}


OF_GATES = ("dl", "df", "dalpha", "ddt")  # with an axis more, "d", where each channel has a gate


def axes_of(quantity: str, number: int) -> tuple[str, ...]:
    """Return the names of the axes of a quantity that has so many; () for one without names."""
    names = AXES.get(quantity, ())
    return (*names, "d") if quantity in OF_GATES and number > len(names) else names


@dataclass(frozen=True)
class Evidence:
    """All entries of the tensor in which a finding is one entry: computed, exact, allowed error, wrong.

    All arrays have the axes of AXES[quantity], or are a block of such an array. computed, exact: float64;
    exact is good to about 15 digits. allowed: absolute, 0 where bits are compared. wrong: the entries that
    break the law. judged: the entries of which the law requires something. truth: the array that `exact` was
    computed from (exact = times x truth), if it came from another call. overflow: the entries that need not
    be finite. decays: the place of exp(D~) in the entries, if they contain it (dmat.testing.oracle.decays).
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
        """Error over allowed: 0 where equal, inf where a class differs or where no error is allowed."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.abs(self.computed - self.exact)
            equal = (self.computed == self.exact) | (np.isnan(self.computed) & np.isnan(self.exact))
            ratio = np.where(equal | (error == 0), 0.0, error / self.allowed)
        unlike = self.wrong & ~np.isfinite(ratio)
        return np.where(unlike, np.inf, np.where(self.judged, np.nan_to_num(ratio, posinf=np.inf), 0.0))


@dataclass(frozen=True)
class Finding:
    """One broken entry: its index, the computed value, the exact value, the error and the allowed error.

    error, allowed: absolute, in the unit of the entry; None where a class or a bit differs.
    evidence: all entries that were judged in the same comparison; None if the quantity has no entries.
    what: the kind of mistake. "value": two numbers differ. "class": one is NaN or infinite. "raised": the
    call raised. "shape": the tensor has a wrong shape, dtype, device or layout. "memory": the tensor shares
    memory, or the call takes too much. "died": the process died or did not end.
    detail: for "raised", the name of the exception's class. For "class", the class that the entry must have,
    "" for a number. For "shape", the attributes that were compared, "" for all. For "memory", the input whose
    memory is shared, or the largest number of bytes allowed, as a product.
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
        """Return the lines of the finding in a message."""
        names = axes_of(self.quantity, len(self.index))
        where = ", ".join(f"{axis}={n}" for axis, n in zip(names, self.index, strict=False))
        lines = [f"{self.quantity}[{where}]" if where else self.quantity]
        lines += [f"  computed  {self.computed}", f"  exact     {self.exact}"]
        if self.error is not None and self.allowed is not None:
            times = self.error / self.allowed if self.allowed else math.inf
            lines.append(f"  error     {self.error:.3g} = {times:.3g} x the {self.allowed:.3g} allowed")
        return [*lines, f"  {self.note}"] if self.note else lines


class LawBroken(AssertionError):
    """A law does not hold. `finding` says where. The runner adds the law and the case."""

    def __init__(self, finding: Finding) -> None:
        """Keep the finding. str() of the exception gives the finding's lines."""
        super().__init__("\n".join(finding.lines()))
        self.finding = finding


@dataclass(frozen=True)
class Expected:
    """The expected value of one tensor: the oracle's value, its own error, and the bound for rounding.

    kind: the class of each entry (finite, -inf, NaN, ...). value: the true value in a pair of float64. slack:
    a bound on the error of `value`. bound: the allowed error of the kernel. ball: encloses the true value of
    the entry at an index. decays: as in Evidence.
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
        """Return a copy that requires nothing of the entries in `where`."""
        free = np.asarray(self.bound.free | where)
        return replace(self, bound=replace(self.bound, free=free))

    def noted(self, note: str) -> Expected:
        """Return a copy with a note for the message."""
        return replace(self, note=note)

    def part(self, where: tuple[slice, ...]) -> Expected:
        """Return the expected value of a block of entries. where: slices with starts of 0 or more."""
        starts = [piece.start or 0 for piece in where]

        def ball(index: tuple[int, ...]) -> arb:
            return self.ball(tuple(n + start for n, start in zip(index, starts, strict=True)))

        bound = Bound(self.bound.bound[where], self.bound.overflow[where], self.bound.free[where])
        value, slack = self.value[where], self.slack[where]
        return Expected(self.quantity, self.kind[where], value, slack, bound, ball)

    @property
    def known(self) -> Mask:
        """The entries whose true value is a number and of which the contract promises something."""
        return np.asarray((self.kind == FINITE) & ~self.bound.free)


@dataclass(frozen=True)
class Exact:
    """Entries of one tensor that every right kernel returns to the bit.

    value: the true values. where: the entries; None for all. note: for the message.
    """

    quantity: str
    value: Array
    where: Mask | None = None
    note: str = ""


def as_array(tensor: Any) -> Array:
    """Copy the tensor's values to float64, which holds every value of the four dtypes exactly."""
    return np.asarray(tensor.detach().cpu().to(torch.float64, copy=True).numpy())


@dataclass(frozen=True)
class Example:
    """An example: one case that breaks a law, and the finding on it."""

    case: Case
    finding: Finding


@dataclass(frozen=True)
class Failure:
    """A case that broke a law. reproducible: the failure is reproducible: the case failed in every retry.

    ended: "broken" if the law failed, "died" or "did not end" if the process did. found: the failure
    before its case was made smaller; None if this is it.
    """

    case: Case
    broken: LawBroken
    reproducible: bool = True
    ended: Ended = "broken"
    found: Failure | None = field(default=None, repr=False, compare=False)

    @property
    def known(self) -> list[Example]:
        """The case, and the case as it was found if that is another one."""
        each = (self,) if self.found is None or self.found.case == self.case else (self, self.found)
        return [Example(one.case, one.broken.finding) for one in each]
