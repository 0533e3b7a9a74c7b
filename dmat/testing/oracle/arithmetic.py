"""The arithmetic of the oracle: pairs of float64, balls of python-flint, and kinds of entries."""

from __future__ import annotations

import math
from collections.abc import Iterable
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


# The classes that an entry may have to be of. A gate that is -inf or NaN decides the class before any value.
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


def single(values: Array) -> Pair:
    """Return float64 values as a pair."""
    return Pair(values, np.zeros_like(values))


def prefix_sums(terms: Array) -> Pair:
    """Sum terms[..., s] over s < k, into [..., k]: of 1, 2, 4, .. terms at once."""
    S, sums = terms.shape[-1], single(np.zeros_like(terms))
    sums.hi[..., 1:] = terms[..., :-1]
    for width in powers_of_two(S):
        later = sums[..., width:] + sums[..., : S - width]
        sums.hi[..., width:], sums.lo[..., width:] = later.hi, later.lo
    return sums


def row_sums(rows: Pair) -> Pair:
    """Sum over the axis before the last: one half onto the other, and again."""
    T = rows.hi.shape[-2]
    if T == 0:
        return single(rows.hi.sum(axis=-2))
    while T > 1:
        half = T // 2
        sums, odd = rows[..., :half, :] + rows[..., half : 2 * half, :], rows[..., 2 * half :, :]
        rows = Pair(np.concatenate([sums.hi, odd.hi], -2), np.concatenate([sums.lo, odd.lo], -2))
        T -= half
    return rows[..., 0, :]


def powers_of_two(S: int) -> list[int]:
    """Return 1, 2, 4, .. below S."""
    return [2**n for n in range(max(S - 1, 0).bit_length())]


def holds(flags: Mask, rows: slice = slice(None)) -> Mask:
    """Return whether window(t, s) contains a flagged gate, into [..., t, s] (False where s >= t).

    rows: the times t.
    """
    counts = np.cumsum(flags, axis=-1, dtype=np.int64)
    return np.asarray(counts[..., rows, None] > counts[..., None, :])
