"""What is true of D~ and its gradients: enclosures, independent of every algorithm in dmat.

Two oracles, both sums of a window's own terms, neither a difference:

- balls (python-flint, 256 bits): `dtilde_ball`, `igate_gradient_ball`, `fgate_gradient_ball`. One entry
  at a time, exact inputs. Nothing is accused before a ball confirms it.
- `Forward` and `Backward`: every entry at once, in float64 or (for float64 subjects) in pairs of float64,
  each with `slack`, a bound on its own error. They find the entries worth a ball.

Gates and cotangents are float64 arrays that hold the exact values of the tensors under test.
docs/spec.md sections 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from flint import arb, ctx

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Kind = npt.NDArray[np.int8]

BITS = 256
ctx.prec = BITS

# What an entry must be. A gate that is -inf or NaN decides before any value does.
FINITE, NEG_INF, POS_INF, NAN, NAN_OR_NEG_INF, FREE = range(6)
KIND_NAMES = ("finite", "-inf", "+inf", "NaN", "NaN or -inf", "anything")


# Balls


@lru_cache(maxsize=2**14)
def log_sigmoid(f: float) -> arb:
    """Enclose log sigmoid(f) of a finite f or +inf; relative radius about 2^-250."""
    if f == math.inf:
        return arb(0)
    x = arb(f)
    return -(-x).exp().log1p() if f > 0 else x - x.exp().log1p()


@lru_cache(maxsize=2**14)
def sigmoid_minus(f: float) -> arb:
    """Enclose sigmoid(-f), the derivative of log sigmoid, of any f but NaN."""
    if math.isinf(f):
        return arb(0) if f > 0 else arb(1)
    x = arb(f)
    return (-x).exp() / (1 + (-x).exp()) if f > 0 else 1 / (1 + x.exp())


def dtilde_ball(i: float, window: Iterable[float]) -> arb:
    """Enclose i + sum of log sigmoid(f) over the window's forget gates, all finite or +inf."""
    return sum((log_sigmoid(f) for f in window), arb(i))


def igate_gradient_ball(column: Iterable[float]) -> arb:
    """Enclose di[s]: the sum of the cotangents that the contract counts in column s."""
    return sum((arb(g) for g in column), arb(0))


def fgate_gradient_ball(rectangle: Iterable[float], f: float) -> arb:
    """Enclose df[k]: the sum of the cotangents of the rectangle, times sigmoid(-f[k])."""
    return sum((arb(g) for g in rectangle), arb(0)) * sigmoid_minus(f)


# Pairs of float64: hi + lo, |lo| <= ulp(hi) / 2


@dataclass(frozen=True)
class Pair:
    """Unevaluated sums hi + lo of float64 arrays. For float64 alone lo is zero."""

    hi: Array
    lo: Array

    def __getitem__(self, index: Any) -> Pair:
        """Index both parts."""
        return Pair(self.hi[index], self.lo[index])

    def __add__(self, other: Pair) -> Pair:
        """Add; relative error 3 x 2^-106 for any signs (Joldes, Muller, Popescu 2017, AccurateDWPlusDW)."""
        s, e = _two_sum(self.hi, other.hi)
        t, f = _two_sum(self.lo, other.lo)
        s, e = _fast_two_sum(s, e + t)
        return Pair(*_fast_two_sum(s, e + f))

    def __mul__(self, other: Pair) -> Pair:
        """Multiply; relative error 5 x 2^-106 where nothing underflows (the same, DWTimesDW)."""
        p, e = _two_product(self.hi, other.hi)
        return Pair(*_fast_two_sum(p, e + (self.hi * other.lo + self.lo * other.hi)))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def _fast_two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    return s, b - (s - a)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    p = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def _split(a: Array) -> tuple[Array, Array]:
    big = a * 134217729.0  # 2^27 + 1 (Veltkamp)
    high = big - (big - a)
    return high, a - high


@lru_cache(maxsize=2**14)
def _log_sigmoid_parts(f: float) -> tuple[float, float]:
    return _parts_of(log_sigmoid(f))


@lru_cache(maxsize=2**14)
def _sigmoid_minus_parts(f: float) -> tuple[float, float]:
    return _parts_of(sigmoid_minus(f))


def _parts_of(ball: arb) -> tuple[float, float]:
    """Round a ball to hi and lo; relative error 2^-106 plus 2^-1074 absolute."""
    hi = float(ball.mid())
    return hi, float((ball - arb(hi)).mid())


def _pairs_of(parts: Callable[[float], tuple[float, float]], values: Array) -> Pair:
    """Return the pairs of these values, one by one."""
    both = np.array([parts(x) for x in values.ravel().tolist()], dtype=np.float64).reshape(*values.shape, 2)
    return Pair(both[..., 0], both[..., 1])


def _single(values: Array) -> Pair:
    return Pair(values, np.zeros_like(values))


def _prefix_sums(terms: Array) -> Pair:
    """Sum terms[..., s] over s < k, into [..., k]: of 1, 2, 4, .. terms at once."""
    S, sums = terms.shape[-1], _single(np.zeros_like(terms))
    sums.hi[..., 1:] = terms[..., :-1]
    for width in _powers_of_two(S):
        later = sums[..., width:] + sums[..., : S - width]
        sums.hi[..., width:], sums.lo[..., width:] = later.hi, later.lo
    return sums


def _row_sums(rows: Pair) -> Pair:
    """Sum over the axis before the last: one half onto the other, and again."""
    T = rows.hi.shape[-2]
    if T == 0:
        return _single(rows.hi.sum(axis=-2))
    while T > 1:
        half = T // 2
        sums, odd = rows[..., :half, :] + rows[..., half : 2 * half, :], rows[..., 2 * half :, :]
        rows = Pair(np.concatenate([sums.hi, odd.hi], -2), np.concatenate([sums.lo, odd.lo], -2))
        T -= half
    return rows[..., 0, :]


def _powers_of_two(S: int) -> list[int]:
    """Return 1, 2, 4, .. below S."""
    return [2**n for n in range(max(S - 1, 0).bit_length())]


@dataclass(frozen=True)
class GateTerms:
    """Each gate's own numbers, (B, NH, S); those of infinite and NaN gates are zero.

    log: log sigmoid(f). rate: sigmoid(-f), 1 at f = -inf. condition: |f| sigmoid(-f) and, for the
    rate, |f| sigmoid(f).
    """

    log: Pair
    rate: Pair
    log_condition: Array
    rate_condition: Array

    @classmethod
    def of(cls, fgate: Array, *, wide: bool) -> GateTerms:
        """Evaluate in float64 (relative error below 8 x 2^-53), or from balls where `wide`."""
        finite = np.isfinite(fgate)
        f = np.where(finite, fgate, 0.0)
        decay = np.exp(-np.abs(f))
        small, large = decay / (1 + decay), 1 / (1 + decay)
        rate_value = np.where(f > 0, small, large)
        conditions = np.abs(f) * rate_value, np.abs(f) * np.where(f > 0, large, small)
        if wide:
            log, rate = _pairs_of(_log_sigmoid_parts, f), _pairs_of(_sigmoid_minus_parts, f)
        else:
            log, rate = _single(np.minimum(f, 0) - np.log1p(decay)), _single(rate_value)
        at_infinity = np.where(fgate == -np.inf, 1.0, 0.0)
        return cls(
            log=Pair(np.where(finite, log.hi, 0.0), np.where(finite, log.lo, 0.0)),
            rate=Pair(np.where(finite, rate.hi, at_infinity), np.where(finite, rate.lo, 0.0)),
            log_condition=np.where(finite, conditions[0], 0.0),
            rate_condition=np.where(finite, conditions[1], 0.0),
        )


def window_sums(terms: Pair, *, wide: bool) -> Pair:
    """Sum terms[..., k] over s < k <= t, into [..., t, s]; each a sum of its own terms."""
    S = terms.hi.shape[-1]
    if not wide:
        below = np.tri(S, S, -1, dtype=bool)
        return _single(np.cumsum(np.where(below, terms.hi[..., :, None], 0.0), axis=-2))
    last = Pair(*(np.zeros((*terms.hi.shape, max(S, 2))) for _ in range(2)))  # [..., t, n]: the n up to t
    last.hi[..., 1], last.lo[..., 1] = terms.hi, terms.lo
    for width in _powers_of_two(S):  # what is known of up to `width` terms, before `width` more
        more = last[..., width:, width, None] + last[..., : S - width, 1 : min(width, S - 1 - width) + 1]
        longer = slice(width + 1, width + 1 + more.hi.shape[-1])
        last.hi[..., width:, longer], last.lo[..., width:, longer] = more.hi, more.lo
    t = np.arange(S)[:, None]
    return last[..., t, np.maximum(t - t.T, 0)]


def decay_from(fgate: Array, m: int) -> Array:
    """Sum log sigmoid(f) over m < k <= t, for t = m .. S - 1, into (B, NH, S - m), in float64.

    Relative error (S + 8) x 2^-52; infinite and NaN gates count as zero.
    """
    log = GateTerms.of(fgate, wide=False).log.hi[..., m:].copy()
    log[..., :1] = 0.0
    with np.errstate(over="ignore"):
        return np.asarray(np.cumsum(log, axis=-1))


def holds(flags: Mask) -> Mask:
    """Whether window(t, s) holds a flagged gate, into [..., t, s] (False where s >= t)."""
    counts = np.cumsum(flags, axis=-1, dtype=np.int64)
    return np.asarray(counts[..., :, None] > counts[..., None, :])


@dataclass(frozen=True)
class Forward:
    """D~ of these gates: kind and value of each entry, and the sums that its bound is made of.

    kind: (B, NH, S, S), what the entry must be. value: where kind is FINITE, D~ to within `slack`.
    magnitude: sum of |log sigmoid(f)| over the window. condition: of |f| sigmoid(-f).
    """

    igate: Array
    fgate: Array
    terms: GateTerms
    kind: Kind
    value: Pair
    slack: Array
    magnitude: Array
    condition: Array

    @classmethod
    def of(cls, igate: Array, fgate: Array, *, wide: bool) -> Forward:
        """Compute it; igate and fgate are (B, NH, S), `wide` for subjects that compute in float64."""
        S = igate.shape[-1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            terms = GateTerms.of(fgate, wide=wide)
            sums = window_sums(terms.log, wide=wide)
            condition = window_sums(_single(terms.log_condition), wide=False)
            i = np.where(np.isfinite(igate), igate, 0.0)[..., None, :]
            value = sums + _single(np.broadcast_to(i, sums.hi.shape))
            magnitude = -sums.hi
            # each term's own error, then one per addition; 2^-97 and 2^-52 leave a factor to spare
            unit = (S + 4) * 2.0**-97 if wide else (S + 12) * 2.0**-52
            slack = unit * (magnitude + np.abs(i)) + (S + 4) * 2.0**-1070
            overflown = ~np.isfinite(value.hi)  # sums past 2^1024: nothing is known, or promised
        kind = _forward_kind(igate, fgate)
        kind[overflown & (kind == FINITE)] = FREE
        return cls(
            igate,
            fgate,
            terms,
            kind,
            value,
            slack,
            np.where(overflown, np.inf, magnitude),
            condition.hi,
        )

    def ball(self, index: tuple[int, ...]) -> arb:
        """Enclose D~ at (b, h, t, s), an entry of kind FINITE."""
        b, h, t, s = index
        return dtilde_ball(self.igate[b, h, s], self.fgate[b, h, s + 1 : t + 1].tolist())


def _forward_kind(igate: Array, fgate: Array) -> Kind:
    """What each entry must be, from the gates that it reads (docs/spec.md section 1)."""
    S = igate.shape[-1]
    closed = holds(fgate == -np.inf)
    i = igate[..., None, :]
    any_nan = holds(np.isnan(fgate)) | np.isnan(i)
    any_closed = closed | (i == -np.inf)
    kind = np.full((*igate.shape, S), FINITE, dtype=np.int8)
    kind[np.broadcast_to(i == np.inf, kind.shape)] = POS_INF
    kind[any_closed] = NEG_INF
    kind[closed & (i == np.inf)] = NAN_OR_NEG_INF
    kind[any_nan] = NAN
    kind[any_nan & any_closed] = NAN_OR_NEG_INF
    kind[..., ~np.tri(S, S, dtype=bool)] = NEG_INF
    return kind


@dataclass(frozen=True)
class Backward:
    """Gradients for these gates and this cotangent, and the sums that their bounds are made of.

    di, df: (B, NH, S), each to within its slack. For di[s] `column_*`, for df[k] `rectangle_*`: the
    number of non-zero cotangents summed and the sum of their magnitudes. total_*: the same over the
    whole causal part of a head, (B, NH, 1).
    """

    fgate: Array
    counted: Array
    terms: GateTerms
    di: Pair
    di_slack: Array
    df: Pair
    df_slack: Array
    column_count: Array
    column_sum: Array
    rectangle_count: Array
    rectangle_sum: Array
    total_count: Array
    total_sum: Array

    @classmethod
    def of(cls, fgate: Array, G: Array, *, masked_cotangent: str, wide: bool) -> Backward:
        """Compute them; fgate is (B, NH, S), G (B, NH, S, S), finite at t >= s.

        masked_cotangent: "ignored", or "summed" where di[s] sums the rows above the diagonal too.
        """
        S = fgate.shape[-1]
        causal = np.where(np.tri(S, S, dtype=bool), G, 0.0)
        counted = causal if masked_cotangent == "ignored" else G
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            terms = GateTerms.of(fgate, wide=wide)
            rectangle = _rectangles(causal, wide=wide)
            rectangle_sum = _rectangles(np.abs(causal), wide=False).hi
            column_sum = np.abs(counted).sum(axis=-2)
            unit = S * 2.0**-96 if wide else (4 * S + 32) * 2.0**-53
            tiny = 2.0**-1070
            return cls(
                fgate,
                counted,
                terms,
                _column_sums(counted, wide=wide),
                unit * column_sum,
                rectangle * terms.rate if wide else _single(rectangle.hi * terms.rate.hi),
                unit * rectangle_sum * terms.rate.hi + tiny * (rectangle_sum + 1),
                np.count_nonzero(counted, axis=-2).astype(np.float64),
                column_sum,
                _rectangles((causal != 0).astype(np.float64), wide=False).hi,
                rectangle_sum,
                np.count_nonzero(causal, axis=(-2, -1))[..., None].astype(np.float64),
                np.abs(causal).sum(axis=(-2, -1))[..., None],
            )

    def di_ball(self, index: tuple[int, ...]) -> arb:
        """Enclose di at (b, h, s)."""
        b, h, s = index
        return igate_gradient_ball(_nonzero(self.counted[b, h, :, s]))

    def df_ball(self, index: tuple[int, ...]) -> arb:
        """Enclose df at (b, h, k), f[k] not NaN."""
        b, h, k = index
        return fgate_gradient_ball(_nonzero(self.counted[b, h, k:, :k]), self.fgate[b, h, k])


def _nonzero(G: Array) -> list[float]:
    return [float(g) for g in G[G != 0]]


def _column_sums(G: Array, *, wide: bool) -> Pair:
    if not wide:
        return _single(G.sum(axis=-2))
    return _row_sums(_single(G))


def _rectangles(causal: Array, *, wide: bool) -> Pair:
    """Sum over t >= k > s, into [..., k]: along each row up to k, then over the rows from k down."""
    S = causal.shape[-1]
    below = np.tri(S, S, dtype=bool)
    if not wide:
        left = np.zeros_like(causal)  # [..., t, k]: sum over s < k of row t
        left[..., 1:] = np.cumsum(causal[..., :-1], axis=-1)
        return _single(np.where(below, left, 0.0).sum(axis=-2))
    lefts = _prefix_sums(causal)
    return _row_sums(Pair(np.where(below, lefts.hi, 0.0), np.where(below, lefts.lo, 0.0)))


# The exact regime: integers


def integer_dtilde(igate: Array, fgate: Array) -> Array:
    """D~ of gates of the exact regime, in integer arithmetic: log sigmoid(f) = f, and 0 at f = +inf."""
    S = igate.shape[-1]
    log = np.where(np.isfinite(fgate), fgate, 0.0).astype(np.int64)
    prefix = np.cumsum(log, axis=-1)
    dtilde = prefix[..., :, None] - prefix[..., None, :] + igate.astype(np.int64)[..., None, :]
    return np.where(np.tri(S, dtype=bool), dtilde.astype(np.float64), -np.inf)


def integer_gradients(fgate: Array, G: Array) -> tuple[Array, Array]:
    """di and df of integer cotangents in the exact regime, in integer arithmetic."""
    causal = np.tril(G).astype(np.int64)
    S = fgate.shape[-1]
    left = np.zeros_like(causal)
    left[..., 1:] = np.cumsum(causal, axis=-1)[..., :-1]
    rectangle = np.where(np.tri(S, dtype=bool), left, 0).sum(axis=-2)
    df = np.where(np.isfinite(fgate), rectangle, 0)
    return causal.sum(axis=-2).astype(np.float64), df.astype(np.float64)
