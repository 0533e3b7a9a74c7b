"""The bounds on the error of forward mode and of second derivatives of D~: docs/spec.md sections 3 and 5."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dmat.testing.bounds.dtilde import summed_cotangents
from dmat.testing.bounds.formats import CONDITION_ULPS, RATE_ULPS, Bound, Rounding, gamma
from dmat.testing.bounds.scope import derivative_scope, over_scope, scope_length
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.derivative import Curvature, GatePair, Tangent, magnitudes
from dmat.testing.oracle.gates import GateTerms

# Autograd adds up the contributions of several paths to an input in the input's own dtype: so many roundings
# of u, for up to four paths that each round once.
WAYS_ULPS = 8
LARGEST_GATE = 100.0  # beyond it sigmoid(f) sigmoid(-f) is too small to be judged


def tangent_bound(truth: Tangent, rounding: Rounding) -> Bound:
    """Bound |computed - J v|.

    With M = |v_i| + sum |v_f| sigmoid(-f), A = sum |v_f| and C = sum |v_f| sigmoid(-f) |f| sigmoid(f) over
    the derivative's scope: e = gamma(n + 16) M + 3 u_a C + (A + 2 n + 4) eta. The constants are those of df,
    which has the same factors.
    """
    S = truth.gates.fgate.shape[-1]
    with np.errstate(under="ignore"):
        e = np.where(np.tri(S, dtype=bool), _tangent_error(truth, rounding), 0.0)
        n = scope_length(S, derivative_scope(rounding.error_scope))
        e = e + gamma(n + RATE_ULPS, rounding.u_a) * np.abs(truth.start)
    return _bound(rounding, e, truth.value.hi, _overflows(rounding, truth.gates)[..., None])


def _tangent_error(truth: Tangent, rounding: Rounding) -> Array:
    """Return e of J v without the part of v_i."""
    size, scope, rate = np.abs(truth.v.fgate), derivative_scope(rounding.error_scope), truth.terms.rate.hi
    n = scope_length(size.shape[-1], scope)
    moved, conditioned = size * rate, size * rate * truth.terms.rate_condition
    M, C, A = (over_scope(x, magnitudes(x), scope) for x in (moved, conditioned, size))
    e = gamma(n + RATE_ULPS, rounding.u_a) * M + CONDITION_ULPS * rounding.u_a * C
    e = e + (A + 2 * n + 4) * rounding.eta
    return np.asarray(e + RATE_ULPS * rounding.u_a * A if rounding.gates == "absolute" else e)


def gradient_in_G_bound(truth: Tangent, rounding: Rounding) -> Bound:
    """Bound |computed - d<v, J' G> / dG|: the bound of J v, and gamma(8) M for the sum of several paths.

    The contribution of each path to G is rounded to the dtype of G. The paths together are as large as the
    terms of J v over the derivative's scope: each of the sums from one end may be a path of its own.
    """
    moved = GateTerms.of(truth.gates.fgate, wide=False).rate.hi * np.abs(truth.v.fgate)
    scope = derivative_scope(rounding.error_scope)
    size = over_scope(moved, magnitudes(moved), scope) + np.abs(truth.v.igate)[..., None, :]
    bound = tangent_bound(truth, rounding)
    return replace(bound, bound=bound.bound + gamma(WAYS_ULPS, rounding.u) * size)


def curvature_size(truth: Curvature, rounding: Rounding) -> Array:
    """Return A |v_f|, the magnitude of the terms of the second derivative, with the A of df."""
    return summed_cotangents(truth.backward, rounding.error_scope)[1] * np.abs(truth.v.fgate)


def curvature_bound(truth: Curvature, rounding: Rounding) -> Bound:
    """Bound |computed - d<v, J' G> / df|, for the entries of `is_judged`.

    e = gamma(N + 16) A |v_f| + (A |v_f| + 2 N + 4) eta, absolute, with the N and A of df, plus the rounding
    of adding up the paths to f in its dtype: gamma(8) A |v_f| in u.
    """
    (N, _), size = summed_cotangents(truth.backward, rounding.error_scope), curvature_size(truth, rounding)
    with np.errstate(over="ignore", invalid="ignore"):
        e = (gamma(N + RATE_ULPS, rounding.u_a) + gamma(WAYS_ULPS, rounding.u)) * size
        e = e + (size + 2 * N + 4) * rounding.eta
        e = np.where(np.isnan(e), np.inf, e)
    return _bound(rounding, e, truth.value.hi, _overflows(rounding, truth.gates))


def is_judged(truth: Curvature, rounding: Rounding) -> Mask:
    """Return where a second derivative is judged: 0 < |f| <= 100, and size exp(|f|) squared is finite.

    A second derivative may compute that product on the way.
    """
    f, size = np.abs(truth.gates.fgate), curvature_size(truth, rounding)
    largest = min(rounding.accumulator.largest, rounding.output.largest)
    finite = f <= (math.log(largest) - np.log1p(size)) / 2.2
    return np.asarray((f != 0) & (f <= LARGEST_GATE) & finite)


def _overflows(rounding: Rounding, gates: GatePair) -> Mask:
    """Return where D~ of a head of finite gates may overflow, (B, NH, 1): its derivatives may then be NaN."""
    with np.errstate(over="ignore"):
        log = GateTerms.of(gates.fgate, wide=False).log.hi
        size = 2 * (np.abs(gates.igate).max(-1, initial=0.0) + np.abs(log).sum(-1))
    return np.asarray(~(size < min(rounding.accumulator.largest, rounding.output.largest)))[..., None]


def _bound(rounding: Rounding, e: Array, value: Array, free: Mask) -> Bound:
    """Return the bound. Cotangents and directions are small: only gates overflow, which `free` covers."""
    nowhere = np.zeros(value.shape, dtype=bool)
    return Bound(rounding.stored(e, value), nowhere, np.asarray(nowhere | free))
