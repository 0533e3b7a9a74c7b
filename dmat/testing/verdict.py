"""Right or wrong, and the message: classes (NaN, -inf, +inf) before values, balls before accusations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flint import arb

from dmat.testing.bounds import Bound
from dmat.testing.exact import (
    FINITE,
    FREE,
    KIND_NAMES,
    NAN,
    NAN_OR_NEG_INF,
    NEG_INF,
    POS_INF,
    Array,
    Kind,
    Mask,
    Pair,
)
from dmat.testing.record import What

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
    """The whole tensor of which a finding is one entry: computed, exact, how far apart, and where wrong.

    All have the axes of AXES[quantity], or are parts of such. computed, exact: float64, exact to some 15
    digits. allowed: absolute, 0 where bits are compared. wrong: the entries that break the law. judged: those
    that the law requires something of. truth: what `exact` was read from, where that is another call, and
    `times` that; overflow: where a result need not be finite. decays: how exp(D~) stands in the entries, if
    it does (dmat.testing.readout.decays).
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


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(float(value))


def _exactly(ball: arb) -> str:
    return str(ball.str(20, radius=False))


def _first(mask: Mask) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(np.argmax(mask)), mask.shape))


def require_kinds(computed: Array, expected: Expected) -> None:
    """Require -inf, +inf and NaN just where they must be, and nowhere else unless it overflows."""
    kind, wrong = expected.kind, _wrong_kinds(computed, expected)
    if wrong.any():
        index = _first(wrong)
        must = KIND_NAMES[kind[index]]
        exact = _exactly(expected.ball(index)) if kind[index] == FINITE else must
        shown = _shown(computed[index])
        evidence = _evidence(computed, expected)
        finding = Finding(
            expected.quantity,
            index,
            shown,
            exact,
            note=expected.note,
            evidence=evidence,
            what="class",
            detail="" if kind[index] == FINITE else must,
        )
        raise LawBroken(finding)


def _wrong_kinds(computed: Array, expected: Expected) -> Mask:
    """Return where -inf, +inf and NaN do not stand where they must, or stand elsewhere."""
    kind, nan = expected.kind, np.isnan(computed)
    overflown = expected.bound.overflow & ~np.isfinite(computed)  # inf - inf, where a sum overflows
    right = np.select(
        [kind == FINITE, kind == NEG_INF, kind == POS_INF, kind == NAN, kind == NAN_OR_NEG_INF],
        [
            np.isfinite(computed) | overflown,
            (computed == -np.inf) | overflown,
            (computed == np.inf) | overflown,
            nan,
            nan | (computed == -np.inf),
        ],
        default=True,
    )
    return np.asarray(~(right | expected.bound.free | (kind == FREE)))


_OF_KIND = {NEG_INF: -np.inf, POS_INF: np.inf, NAN: np.nan, NAN_OR_NEG_INF: np.nan}


def _evidence(computed: Array, expected: Expected) -> Evidence:
    """Return all entries beside what they must be; one not known to be wrong by a ball is left out."""
    kind, exact = expected.kind, expected.value.hi
    for number, value in _OF_KIND.items():
        exact = np.where(kind == number, value, exact)
    _, error = _ratios(computed, expected)
    beyond = expected.known & (error - expected.slack > expected.bound.bound)
    judged = ~(expected.bound.free | (kind == FREE))
    wrong = _wrong_kinds(computed, expected) | beyond
    bound = expected.bound
    return Evidence(
        computed,
        exact,
        bound.bound,
        wrong,
        np.asarray(judged),
        overflow=bound.overflow,
        decays=expected.decays,
    )


def require_within(computed: Array, expected: Expected) -> float:
    """Require every entry to be right in class and within its bound; return the worst error / bound."""
    require_kinds(computed, expected)
    ratio, error = _ratios(computed, expected)
    suspect = error + expected.slack > expected.bound.bound
    suspect &= np.isfinite(ratio) | (ratio == np.inf)
    for flat in np.argsort(np.where(suspect, -ratio, 1.0), axis=None)[: int(suspect.sum())]:
        index = tuple(int(n) for n in np.unravel_index(int(flat), suspect.shape))
        finding = convict(computed, expected, index)
        if finding is not None:
            raise LawBroken(replace(finding, evidence=_evidence(computed, expected)))
    return float(ratio.max(initial=0.0, where=~np.isnan(ratio)))


def _ratios(computed: Array, expected: Expected) -> tuple[Array, Array]:
    """Return error / bound and error, NaN and 0 where there is nothing to compare."""
    comparable = expected.known & np.isfinite(computed)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs((computed - expected.value.hi) - expected.value.lo)
        error = np.where(comparable, error, 0.0)
        return np.where(comparable, error / expected.bound.bound, np.nan), error


def convict(computed: Array, expected: Expected, index: tuple[int, ...]) -> Finding | None:
    """Return the finding if ball arithmetic confirms that this entry is out of bound, else None."""
    allowed = float(expected.bound.bound[index])
    if not (expected.known[index] and np.isfinite(computed[index]) and math.isfinite(allowed)):
        return None
    truth = expected.ball(index)
    error = abs(arb(float(computed[index])) - truth)
    if not error > arb(allowed):
        return None
    return Finding(
        expected.quantity,
        index,
        _shown(float(computed[index])),
        _exactly(truth),
        float(error.mid()),
        allowed,
        expected.note,
        what="value",
    )


def require_agreement(
    first: Array,
    expected: Expected,
    second: Array,
    other: Expected,
    note: str,
    apart_by: Array | float = 0.0,
) -> None:
    """Require first = second + apart_by within the sum of both bounds, `second` broadcast to `first`.

    Entries that are not numbers are the business of the laws of values. A disagreement accuses the
    side that ball arithmetic finds out of its bound.
    """
    comparable = expected.known & other.known & np.isfinite(first) & np.isfinite(second)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(comparable, np.abs(first - second - apart_by), 0.0)
        suspect = apart > expected.bound.bound + other.bound.bound
    for flat in np.flatnonzero(suspect):
        index = tuple(int(n) for n in np.unravel_index(int(flat), apart.shape))
        there = tuple(min(n, size - 1) for n, size in zip(index, second.shape, strict=True))
        for side, must, place in ((first, expected, index), (second, other, there)):
            finding = convict(side, must, place)
            if finding is not None:
                raise LawBroken(replace(finding, note=note, evidence=_evidence(side, must)))


def require_same(
    quantity: str,
    computed: Array,
    truth: Array,
    where: Mask | None = None,
    note: str = "",
    times: float = 1.0,
) -> None:
    """Require computed = times truth, bit for bit: NaN equals NaN, and the sign of zero is free."""
    exact = truth if times == 1 else times * truth
    same = (computed == exact) | (np.isnan(computed) & np.isnan(exact))
    wrong = ~same if where is None else ~same & where
    if wrong.any():
        index = _first(wrong)
        judged = np.ones_like(wrong) if where is None else np.broadcast_to(where, wrong.shape)
        exact, truth = (np.broadcast_to(x, wrong.shape) for x in (exact, truth))
        evidence = Evidence(computed, exact, np.zeros(wrong.shape), wrong, judged, truth, times)
        shown, must = _shown(computed[index]), _shown(exact[index])
        numbers = math.isfinite(computed[index]) and math.isfinite(exact[index])
        what: What = "value" if numbers else "class"
        raise LawBroken(Finding(quantity, index, shown, must, note=note, evidence=evidence, what=what))


def require(
    condition: bool,
    quantity: str,
    computed: object,
    exact: object,
    note: str = "",
    *,
    what: What = "shape",
    detail: str = "",
) -> None:
    """Require what has no entries: a shape, a dtype, an identity. what, detail: of the finding."""
    if not condition:
        raise LawBroken(Finding(quantity, (), str(computed), str(exact), note=note, what=what, detail=detail))


def as_array(tensor: Any) -> Array:
    """Return the tensor's values as float64, which holds each of the four dtypes exactly, in a copy."""
    return np.asarray(tensor.detach().to("cpu", torch.float64, copy=True).numpy())
