"""The true values of D~ and its gradients, each with a bound on the oracle's own error."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import (
    FINITE,
    FREE,
    NAN,
    NAN_OR_NEG_INF,
    NEG_INF,
    POS_INF,
    Array,
    Kind,
    Pair,
    dtilde_ball,
    fgate_gradient_ball,
    holds,
    igate_gradient_ball,
    prefix_sums,
    row_sums,
    single,
)
from dmat.testing.oracle.gates import GateTerms, window_sums


@dataclass(frozen=True)
class Forward:
    """D~ of these gates: kind and value of each entry, and the sums that its bound is made of.

    first: the time of the first row; 0 unless this is a block of rows.
    kind: (B, NH, t, S), the class of the entry. value: where kind is FINITE, D~ to within `slack`.
    magnitude: sum of |log sigmoid(f)| over the window. condition: sum of |f| sigmoid(-f) over the window.
    """

    igate: Array
    fgate: Array
    terms: GateTerms
    kind: Kind
    value: Pair
    slack: Array
    magnitude: Array
    condition: Array
    first: int = 0

    @classmethod
    def of(cls, igate: Array, fgate: Array, *, wide: bool) -> Forward:
        """Compute D~. igate, fgate: (B, NH, S). wide: for a kernel that accumulates in float64."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            terms = GateTerms.of(fgate, wide=wide)
            sums = window_sums(terms.log, wide=wide)
            condition = window_sums(single(terms.log_condition), wide=False).hi
        return cls.of_sums(igate, fgate, terms, sums, condition, wide=wide)

    @classmethod
    def of_sums(
        cls,
        igate: Array,
        fgate: Array,
        terms: GateTerms,
        sums: Pair,
        condition: Array,
        first: int = 0,
        *,
        wide: bool,
    ) -> Forward:
        """Return D~ of the rows from `first` on, from sums over their windows, (B, NH, t, S)."""
        S = igate.shape[-1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            i = np.where(np.isfinite(igate), igate, 0.0)[..., None, :]
            value = sums + single(np.broadcast_to(i, sums.hi.shape))
            magnitude = -sums.hi
            # the error of each term, and one rounding per addition; 2^-97 and 2^-52 leave a margin
            unit = (S + 4) * 2.0**-97 if wide else (S + 12) * 2.0**-52
            slack = unit * (magnitude + np.abs(i)) + (S + 4) * 2.0**-1070
            overflown = ~np.isfinite(value.hi)  # sums past 2^1024: the value is unknown, and not promised
        kind = _forward_kind(igate, fgate, slice(first, first + value.hi.shape[-2]))
        kind[overflown & (kind == FINITE)] = FREE
        return cls(
            igate,
            fgate,
            terms,
            kind,
            value,
            slack,
            np.where(overflown, np.inf, magnitude),
            condition,
            first,
        )

    def ball(self, index: tuple[int, ...]) -> arb:
        """Enclose D~ at (b, h, t, s), an entry of kind FINITE. t counts from the first row."""
        b, h, t, s = index
        window = self.fgate[b, h, s + 1 : self.first + t + 1]
        return dtilde_ball(self.igate[b, h, s], window.tolist())


def _forward_kind(igate: Array, fgate: Array, rows: slice) -> Kind:
    """Return the class of each entry of these rows, from the gates in its window (docs/spec.md section 1)."""
    S, T = igate.shape[-1], rows.stop - rows.start
    closed = holds(fgate == -np.inf, rows)
    i = igate[..., None, :]
    any_nan = holds(np.isnan(fgate), rows) | np.isnan(i)
    any_closed = closed | (i == -np.inf)
    kind = np.full((*igate.shape[:-1], T, S), FINITE, dtype=np.int8)
    kind[np.broadcast_to(i == np.inf, kind.shape)] = POS_INF
    kind[any_closed] = NEG_INF
    kind[closed & (i == np.inf)] = NAN_OR_NEG_INF
    kind[any_nan] = NAN
    kind[any_nan & any_closed] = NAN_OR_NEG_INF
    kind[..., ~np.tri(T, S, rows.start, dtype=bool)] = NEG_INF
    return kind


@dataclass(frozen=True)
class Backward:
    """Gradients for these gates and this cotangent, and the sums that their bounds are made of.

    di, df: (B, NH, S), each to within its slack. column_*: for di[s], the number of non-zero cotangents
    summed, and the sum of their magnitudes. rectangle_*: the same for df[k]. total_*: the same over the whole
    causal part of a head, (B, NH, 1). counted: the cotangents that di sums.
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
        """Compute the gradients. fgate: (B, NH, S). G: (B, NH, S, S), finite at t >= s.

        masked_cotangent: "ignored", or "summed" if di[s] also sums the entries above the diagonal.
        """
        sums = CotangentSums.of(G, masked_cotangent=masked_cotangent, wide=wide)
        counted = _causal(G) if masked_cotangent == "ignored" else G
        return cls.of_sums(fgate, sums, counted, wide=wide)

    @classmethod
    def of_sums(cls, fgate: Array, sums: CotangentSums, counted: Array, *, wide: bool) -> Backward:
        """Return the gradients from the sums of all rows. counted: read by the balls alone."""
        S = fgate.shape[-1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            terms = GateTerms.of(fgate, wide=wide)
            unit = S * 2.0**-96 if wide else (4 * S + 32) * 2.0**-53
            tiny, rate, size = 2.0**-1070, terms.rate, sums.rectangle_sum
            return cls(
                fgate,
                counted,
                terms,
                sums.column,
                unit * sums.column_sum,
                sums.rectangle * rate if wide else single(sums.rectangle.hi * rate.hi),
                unit * size * rate.hi + tiny * (size + 1),
                sums.column_count,
                sums.column_sum,
                sums.rectangle_count,
                size,
                sums.total_count,
                sums.total_sum,
            )

    def di_ball(self, index: tuple[int, ...]) -> arb:
        """Enclose di at (b, h, s)."""
        b, h, s = index
        return igate_gradient_ball(_nonzero(self.counted[b, h, :, s]))

    def df_ball(self, index: tuple[int, ...]) -> arb:
        """Enclose df at (b, h, k). f[k] must not be NaN."""
        b, h, k = index
        return fgate_gradient_ball(_nonzero(self.counted[b, h, k:, :k]), self.fgate[b, h, k])


@dataclass(frozen=True)
class CotangentSums:
    """The sums of cotangents that gradients and their bounds are made of; those of blocks of rows add up.

    The fields are those of Backward; column and rectangle are the sums themselves.
    """

    column: Pair
    column_count: Array
    column_sum: Array
    rectangle: Pair
    rectangle_count: Array
    rectangle_sum: Array
    total_count: Array
    total_sum: Array

    @classmethod
    def of(cls, G: Array, first: int = 0, *, masked_cotangent: str, wide: bool) -> CotangentSums:
        """Sum the rows from `first` on, (B, NH, t, S)."""
        causal = _causal(G, first)
        counted = causal if masked_cotangent == "ignored" else G
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return cls(
                _column_sums(counted, wide=wide),
                np.count_nonzero(counted, axis=-2).astype(np.float64),
                np.abs(counted).sum(axis=-2),
                _rectangles(causal, first, wide=wide),
                _rectangles((causal != 0).astype(np.float64), first, wide=False).hi,
                _rectangles(np.abs(causal), first, wide=False).hi,
                np.count_nonzero(causal, axis=(-2, -1))[..., None].astype(np.float64),
                np.abs(causal).sum(axis=(-2, -1))[..., None],
            )

    def __add__(self, other: CotangentSums) -> CotangentSums:
        """Add the sums of other rows."""
        names = [field.name for field in fields(self)]
        return CotangentSums(*(getattr(self, name) + getattr(other, name) for name in names))


def _causal(G: Array, first: int = 0) -> Array:
    """Return the cotangents of the rows from `first` on, 0 above the diagonal."""
    T, S = G.shape[-2:]
    return np.where(np.tri(T, S, first, dtype=bool), G, 0.0)


def _nonzero(G: Array) -> list[float]:
    return [float(g) for g in G[G != 0]]


def _column_sums(G: Array, *, wide: bool) -> Pair:
    if not wide:
        return single(G.sum(axis=-2))
    return row_sums(single(G))


def _rectangles(causal: Array, first: int = 0, *, wide: bool) -> Pair:
    """Sum over t >= k > s, into [..., k]: along each row up to k, then over the rows from k down."""
    T, S = causal.shape[-2:]
    below = np.tri(T, S, first, dtype=bool)
    if not wide:
        left = np.zeros_like(causal)  # [..., t, k]: sum over s < k of row t
        left[..., 1:] = np.cumsum(causal[..., :-1], axis=-1)
        return single(np.where(below, left, 0.0).sum(axis=-2))
    lefts = prefix_sums(causal)
    return row_sums(Pair(np.where(below, lefts.hi, 0.0), np.where(below, lefts.lo, 0.0)))
