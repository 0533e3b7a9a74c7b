"""How far rounding may take an implementation from the truth: docs/spec.md section 3, to the letter.

Arrays are float64, shaped as their entries: (B, NH, S, S) for D~, (B, NH, S) for gradients. Every bound
is absolute, in the unit of the entry it bounds. They are sums and products of non-negative terms,
evaluated in float64, and rounded up by EVALUATION, which covers that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dmat.testing.exact import Array, Backward, Forward, Mask

# A bound takes fewer than 2^10 roundings of 2^-53 but for its sums over S <= 2^16 terms, of 2^-53 each.
EVALUATION = 1 + 2.0**-36

LOG_SIGMOID_ULPS = 8  # what log sigmoid itself may be off by, in u_a, relative to its value
CONDITION_ULPS = 3  # the same per unit of |f| sigmoid(-f): fast exp is 2^(f log2 e)
RATE_ULPS = 16  # sigmoid(-f) and its product with the sum, in u_a
SCALE_ULPS = 4  # copies and casts on the way of an input gate's gradient


@dataclass(frozen=True)
class Format:
    """A floating point format: unit roundoff u, smallest normal, largest finite, what a store loses."""

    name: str
    u: float
    smallest_normal: float
    largest: float

    @classmethod
    def of(cls, name: str) -> Format:
        """Return the format of a torch dtype, by its name."""
        info = torch.finfo(getattr(torch, name))
        return cls(name, info.eps / 2, info.smallest_normal, info.max)

    @property
    def floor(self) -> float:
        """What a store may lose: the smallest normal number, but 2^-24 for float16, never flushed."""
        return 2.0**-24 if self.name == "float16" else self.smallest_normal


@dataclass(frozen=True)
class Rounding:
    """What an implementation may round: its output format, its accumulator, and its contract."""

    output: Format
    accumulator: Format
    error_scope: str | int = "window"
    gates: str = "relative"

    @property
    def u(self) -> float:
        """Unit roundoff of the output."""
        return self.output.u

    @property
    def u_a(self) -> float:
        """Unit roundoff of the accumulator."""
        return self.accumulator.u

    @property
    def eta(self) -> float:
        """What loads and arithmetic may flush: the larger smallest normal, float16's excepted."""
        narrow = self.output.name in ("float32", "bfloat16")
        return max(self.accumulator.smallest_normal, self.output.smallest_normal if narrow else 0.0)

    def stored(self, error: Array, value: Array) -> Array:
        """(1 + u) e + u |value| + floor: the error e before the store, and the store's own."""
        bound = (1 + self.u) * error + self.u * np.abs(value) + self.output.floor
        return np.asarray(bound * EVALUATION)

    def may_overflow(self, twice_magnitude: Array, error: Array, value: Array) -> Mask:
        """Where a result that is not finite is allowed: the accumulator or the output overflows."""
        within = np.abs(value) + self.stored(error, value)
        return np.asarray(
            (twice_magnitude + error >= self.accumulator.largest) | (within >= self.output.largest)
        )


def gamma(m: Array | float, u: float) -> Array:
    """(1 + u)^m - 1, the relative error of m roundings (Higham 2002, section 3.1, without its 1/(1 - mu))."""
    return np.asarray(np.expm1(np.asarray(m) * np.log1p(u)))


@dataclass(frozen=True)
class Bound:
    """bound: absolute, per entry. overflow: where a result that is not finite is allowed."""

    bound: Array
    overflow: Mask
    free: Mask


def _positions(S: int) -> tuple[Array, Array]:
    return np.arange(S, dtype=np.float64)[:, None], np.arange(S, dtype=np.float64)[None, :]


def _starts(S: int, scope: str | int) -> npt.NDArray[np.int64]:
    """Where the sums of column s begin, (S,): at its chunk, or at 0 for a prefix."""
    if scope == "prefix":
        return np.zeros(S, dtype=np.int64)
    return np.arange(S, dtype=np.int64) // int(scope) * int(scope)


def over_scope(terms: Array, windows: Array, scope: str | int) -> Array:
    """Sum what an entry's error scope holds of these magnitudes, into [..., t, s].

    terms: one a gate, (B, NH, S), none negative. windows: their sums over window(t, s).
    """
    if scope == "window":
        return windows
    if scope == "sequence":
        whole = 2 * terms.sum(axis=-1)[..., None, None]
        return np.asarray(np.broadcast_to(whole, windows.shape))
    start = _starts(terms.shape[-1], scope)
    # Over k = start .. t and again over k = start .. s: the gate at start, and its window.
    down_to = windows[..., :, start] + terms[..., None, start]  # [..., t, s]
    down_to_s = np.diagonal(down_to, axis1=-2, axis2=-1)
    return np.asarray(down_to + down_to_s[..., None, :])


def scope_length(S: int, scope: str | int) -> Array:
    """Return n, how many terms the error scope counts, [t, s]."""
    t, s = _positions(S)
    if scope == "sequence":
        return np.full((S, S), S + 2.0)
    if scope == "window":
        return np.maximum(t - s, 0)
    return np.maximum(t - _starts(S, scope)[None, :], 0) + 2


def _freed(truth: Forward, scope: str | int) -> Mask:
    """Where a scope beyond the window promises nothing: a NaN or -inf stands in what it sums."""
    S = truth.fgate.shape[-1]
    causal = np.tri(S, S, dtype=bool)
    if scope == "window":
        return np.zeros_like(truth.kind, dtype=bool)
    special = np.isnan(truth.fgate) | (truth.fgate == -np.inf)
    if scope == "sequence":
        special = special | np.isnan(truth.igate) | (truth.igate == np.inf)
        return np.asarray(np.broadcast_to(special.any(-1)[..., None, None], truth.kind.shape) & causal)
    start = _starts(S, scope)
    counts = np.cumsum(special, axis=-1, dtype=np.int64)
    before = np.where(special, counts - 1, counts)  # exclusive count
    return np.asarray((counts[..., :, None] > before[..., None, start]) & causal)


def forward_bound(truth: Forward, rounding: Rounding) -> Bound:
    """Bound |computed - D~|.

    e = gamma(n + 8) M + 3 u_a C + (2 n + 4) eta, over the error scope: M = |i| + sum |log sigmoid(f)|
    (any order of summation: Higham 2002, section 4.2), C the condition of log sigmoid in f, eta what is
    flushed. gates="absolute" adds gamma(8) n.
    """
    u_a = rounding.u_a
    with np.errstate(over="ignore", invalid="ignore"):
        scope, n = rounding.error_scope, scope_length(truth.fgate.shape[-1], rounding.error_scope)
        logs = over_scope(-truth.terms.log.hi, truth.magnitude, scope)
        C = over_scope(truth.terms.log_condition, truth.condition, scope)
        i = np.abs(np.where(np.isfinite(truth.igate), truth.igate, 0.0))[..., None, :]
        M = i + logs
        e = gamma(n + LOG_SIGMOID_ULPS, u_a) * M + CONDITION_ULPS * u_a * C
        e = e + (2 * n + 4) * rounding.eta
        if rounding.gates == "absolute":
            e = e + gamma(LOG_SIGMOID_ULPS, u_a) * n
        e = np.where(np.isnan(e), np.inf, e)
        value = truth.value.hi
        causal = np.tri(value.shape[-1], dtype=bool)
        return Bound(
            rounding.stored(e, value),
            rounding.may_overflow(2 * M, e, value) & causal,
            _freed(truth, rounding.error_scope),
        )


def igate_gradient_bound(truth: Backward, rounding: Rounding) -> Bound:
    """Bound |computed - di|: e = gamma(n_s + 4) sum |G| + (2 n_s + 4) eta over the counted column."""
    n, A = truth.column_count, truth.column_sum
    e = gamma(n + SCALE_ULPS, rounding.u_a) * A + (2 * n + 4) * rounding.eta
    value = truth.di.hi
    return Bound(
        rounding.stored(e, value),
        rounding.may_overflow(2 * A, e, value),
        np.zeros_like(n, dtype=bool),
    )


def fgate_gradient_bound(truth: Backward, rounding: Rounding) -> Bound:
    """Bound |computed - df|.

    e = (gamma(N + 16) + 3 u_a c) A sigmoid(-f) + (A + 2 N + 4) eta with c = |f| sigmoid(f), N and A the
    number and the magnitude of the non-zero cotangents in the rectangle. In every scope beyond the window N
    and A are twice those of the whole causal part: a difference of two sums, each in any order and from
    either end; df[0] is held to it too. gates="absolute" adds 16 u_a A.
    """
    N, A, special = truth.rectangle_count, truth.rectangle_sum, np.isnan(truth.fgate)
    if rounding.error_scope != "window":
        N, A = (np.broadcast_to(2 * x, N.shape) for x in (truth.total_count, truth.total_sum))
        special = (special | (truth.fgate == -np.inf)).any(axis=-1, keepdims=True) | special
    e, value = _fgate_error(truth, N, A, rounding), truth.df.hi
    return Bound(rounding.stored(e, value), rounding.may_overflow(2 * A, e, value), np.asarray(special))


def _fgate_error(truth: Backward, N: Array, A: Array, rounding: Rounding) -> Array:
    """Return e for N cotangents of magnitude A."""
    u_a = rounding.u_a
    condition = CONDITION_ULPS * u_a * truth.terms.rate_condition
    with np.errstate(over="ignore", invalid="ignore"):
        e = (gamma(N + RATE_ULPS, u_a) + condition) * truth.terms.rate.hi * A
        e = e + (A + 2 * N + 4) * rounding.eta
        e = e + RATE_ULPS * u_a * A if rounding.gates == "absolute" else e
    return np.where(np.isnan(e), np.inf, e)
