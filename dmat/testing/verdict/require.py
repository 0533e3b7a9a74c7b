"""The assertions of the laws: equal bits, equal kinds (finite, -inf, NaN), an error within its bound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import (
    FINITE,
    FREE,
    KIND_NAMES,
    NAN,
    NAN_OR_NEG_INF,
    NEG_INF,
    POS_INF,
    Array,
    Mask,
)
from dmat.testing.record import What
from dmat.testing.verdict.finding import Evidence, Exact, Expected, Finding, LawBroken


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(float(value))


def _exactly(ball: arb) -> str:
    return "0" if ball.contains(0) else str(ball.str(20, radius=False))


def _first(mask: Mask) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(np.argmax(mask)), mask.shape))


def require_kinds(computed: Array, expected: Expected) -> None:
    """Require -inf, +inf and NaN exactly at the expected entries. An entry that may overflow is excepted."""
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
    """Return the entries whose class (finite, -inf, +inf, NaN) is not the expected one."""
    kind, finite = expected.kind, np.isfinite(computed)
    if np.array_equal(finite, kind == FINITE) and (computed[~finite] == -np.inf).all():
        unusual: Mask = (kind != FINITE) & (kind != NEG_INF)
        if not unusual.any():  # the usual call: numbers, and -inf where it is due
            return unusual
    nan = np.isnan(computed)
    overflown = expected.bound.overflow & ~finite  # NaN too: inf - inf in a sum that overflows
    right = np.select(
        [kind == FINITE, kind == NEG_INF, kind == POS_INF, kind == NAN, kind == NAN_OR_NEG_INF],
        [
            finite | overflown,
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
    """Return the evidence on all entries. `wrong` omits an excess that may be the oracle's own error."""
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
    """Require the right class and an error within the bound of each entry; return the worst error / bound."""
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
    """Return (error / bound, error). They are NaN and 0 for an entry that cannot be compared."""
    comparable = expected.known & np.isfinite(computed)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs((computed - expected.value.hi) - expected.value.lo)
        error = np.where(comparable, error, 0.0)
        return np.where(comparable, error / expected.bound.bound, np.nan), error


def errors(computed: Array, expected: Expected) -> tuple[Array, Array]:
    """Return (error / bound, error) of each entry; NaN and 0 for one that cannot be compared."""
    return _ratios(computed, expected)


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
    """Require first = second + apart_by within the sum of both bounds. `second` is broadcast to `first`.

    Entries that are not numbers are skipped: the laws of values judge them. If the two disagree, the finding
    accuses the side that ball arithmetic finds out of its bound.
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


def require_exact(computed: Array, exact: Exact) -> None:
    """Require the exact values, bit for bit, as `require_same` does."""
    require_same(exact.quantity, computed, exact.value, exact.where, exact.note)


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
    """Require a condition on a quantity without entries: a shape, a dtype, an identity.

    what, detail: the fields of the finding.
    """
    if not condition:
        raise LawBroken(Finding(quantity, (), str(computed), str(exact), note=note, what=what, detail=detail))
