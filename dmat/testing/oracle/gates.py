"""Log gates and their sums over windows: the parts of D~ and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import Array, Pair, log_sigmoid, powers_of_two, sigmoid_minus, single


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
    """Apply `parts` to each value, and return the results as pairs."""
    both = np.array([parts(x) for x in values.ravel().tolist()], dtype=np.float64).reshape(*values.shape, 2)
    return Pair(both[..., 0], both[..., 1])


@dataclass(frozen=True)
class GateTerms:
    """Functions of each gate f, (B, NH, S). They are zero for infinite and NaN gates.

    log: log sigmoid(f). rate: sigmoid(-f), but 1 at f = -inf. log_condition: |f| sigmoid(-f).
    rate_condition: |f| sigmoid(f).
    """

    log: Pair
    rate: Pair
    log_condition: Array
    rate_condition: Array

    @classmethod
    def of(cls, fgate: Array, *, wide: bool) -> GateTerms:
        """Evaluate in float64 (relative error below 8 x 2^-53), or from balls if `wide`."""
        finite = np.isfinite(fgate)
        f = np.where(finite, fgate, 0.0)
        decay = np.exp(-np.abs(f))
        small, large = decay / (1 + decay), 1 / (1 + decay)
        rate_value = np.where(f > 0, small, large)
        conditions = np.abs(f) * rate_value, np.abs(f) * np.where(f > 0, large, small)
        if wide:
            log, rate = _pairs_of(_log_sigmoid_parts, f), _pairs_of(_sigmoid_minus_parts, f)
        else:
            log, rate = single(np.minimum(f, 0) - np.log1p(decay)), single(rate_value)
        at_infinity = np.where(fgate == -np.inf, 1.0, 0.0)
        return cls(
            log=Pair(np.where(finite, log.hi, 0.0), np.where(finite, log.lo, 0.0)),
            rate=Pair(np.where(finite, rate.hi, at_infinity), np.where(finite, rate.lo, 0.0)),
            log_condition=np.where(finite, conditions[0], 0.0),
            rate_condition=np.where(finite, conditions[1], 0.0),
        )


def window_sums(terms: Pair, *, wide: bool) -> Pair:
    """Sum terms[..., k] over s < k <= t, into [..., t, s]. No sum is a difference of longer sums."""
    S = terms.hi.shape[-1]
    if not wide:
        below = np.tri(S, S, -1, dtype=bool)
        return single(np.cumsum(np.where(below, terms.hi[..., :, None], 0.0), axis=-2))
    last = Pair(*(np.zeros((*terms.hi.shape, max(S, 2))) for _ in range(2)))  # [..., t, n]: the n up to t
    last.hi[..., 1], last.lo[..., 1] = terms.hi, terms.lo
    for width in powers_of_two(S):  # what is known of up to `width` terms, before `width` more
        more = last[..., width:, width, None] + last[..., : S - width, 1 : min(width, S - 1 - width) + 1]
        longer = slice(width + 1, width + 1 + more.hi.shape[-1])
        last.hi[..., width:, longer], last.lo[..., width:, longer] = more.hi, more.lo
    t = np.arange(S)[:, None]
    return last[..., t, np.maximum(t - t.T, 0)]


def decay_from(fgate: Array, m: int) -> Array:
    """Sum log sigmoid(f) over m < k <= t, for t = m .. S - 1, into (B, NH, S - m), in float64.

    Relative error (S + 8) x 2^-52. The log of an infinite or NaN gate counts as zero.
    """
    log = GateTerms.of(fgate, wide=False).log.hi[..., m:].copy()
    log[..., :1] = 0.0
    with np.errstate(over="ignore"):
        return np.asarray(np.cumsum(log, axis=-1))
