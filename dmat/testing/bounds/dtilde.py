"""The bounds on the error of D~ and its gradients: docs/spec.md section 3."""

from __future__ import annotations

import numpy as np

from dmat.testing.bounds.formats import (
    CONDITION_ULPS,
    LOG_SIGMOID_ULPS,
    RATE_ULPS,
    SCALE_ULPS,
    Bound,
    Rounding,
    gamma,
)
from dmat.testing.bounds.scope import over_scope, scope_length, starts
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.dtilde import Backward, Forward


def _freed(truth: Forward, scope: str | int) -> Mask:
    """Return the entries of which a wider scope promises nothing: its sums contain a NaN or -inf gate."""
    (T, S), first = truth.kind.shape[-2:], truth.first
    causal = np.tri(T, S, first, dtype=bool)
    if scope == "window":
        return np.zeros_like(truth.kind, dtype=bool)
    special = np.isnan(truth.fgate) | (truth.fgate == -np.inf)
    if scope == "sequence":
        special = special | np.isnan(truth.igate) | (truth.igate == np.inf)
        return np.asarray(np.broadcast_to(special.any(-1)[..., None, None], truth.kind.shape) & causal)
    start = starts(S, scope)
    counts = np.cumsum(special, axis=-1, dtype=np.int64)
    before = np.where(special, counts - 1, counts)  # exclusive count
    return np.asarray((counts[..., first : first + T, None] > before[..., None, start]) & causal)


def forward_bound(truth: Forward, rounding: Rounding) -> Bound:
    """Bound |computed - D~|.

    e = gamma(n + 8) M + 3 u_a C + (2 n + 4) eta, over the error scope: M = |i| + sum |log sigmoid(f)|
    (any order of summation: Higham 2002, section 4.2), C the condition of log sigmoid in f, eta the largest
    value that may be flushed to 0. gates="absolute" adds gamma(8) n.
    """
    u_a = rounding.u_a
    with np.errstate(over="ignore", invalid="ignore"):
        (T, S), scope = truth.kind.shape[-2:], rounding.error_scope
        n = scope_length(S, scope, slice(truth.first, truth.first + T))
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
        causal = np.tri(T, S, truth.first, dtype=bool)
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


def summed_cotangents(truth: Backward, error_scope: str | int) -> tuple[Array, Array]:
    """Return N and A of df: how many non-zero cotangents are summed, and their magnitude, (B, NH, S) each.

    Those of the rectangle in window scope. In every wider scope twice those of the whole causal part: a
    difference of two sums, each in any order and from either end.
    """
    N, A = truth.rectangle_count, truth.rectangle_sum
    if error_scope == "window":
        return N, A
    return np.broadcast_to(2 * truth.total_count, N.shape), np.broadcast_to(2 * truth.total_sum, A.shape)


def fgate_gradient_bound(truth: Backward, rounding: Rounding) -> Bound:
    """Bound |computed - df|.

    e = (gamma(N + 16) + 3 u_a c) A sigmoid(-f) + (A + 2 N + 4) eta with c = |f| sigmoid(f), N and A those of
    `summed_cotangents`. In every scope beyond the window df[0] gets the same bound. gates="absolute" adds
    16 u_a A.
    """
    (N, A), special = summed_cotangents(truth, rounding.error_scope), np.isnan(truth.fgate)
    if rounding.error_scope != "window":
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


GRADIENT_BOUNDS = (igate_gradient_bound, fgate_gradient_bound)
ALL_BOUNDS = (forward_bound, *GRADIENT_BOUNDS)
