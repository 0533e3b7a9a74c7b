"""Sums of magnitudes over a contract's error scope: the errors of D~ and its gradients may grow with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dmat.testing.oracle.arithmetic import Array


def _positions(S: int) -> tuple[Array, Array]:
    return np.arange(S, dtype=np.float64)[:, None], np.arange(S, dtype=np.float64)[None, :]


def starts(S: int, scope: str | int) -> npt.NDArray[np.int64]:
    """Return the time at which the sums of column s begin, (S,): its chunk's start, or 0 for a prefix."""
    if scope == "prefix":
        return np.zeros(S, dtype=np.int64)
    return np.arange(S, dtype=np.int64) // int(scope) * int(scope)


def over_scope(terms: Array, windows: Array, scope: str | int) -> Array:
    """Sum the magnitudes in the error scope of each entry, into [..., t, s].

    terms: one magnitude per gate, (B, NH, S), none negative. windows: their sums over window(t, s), of all
    rows t or a block of them.
    """
    if scope == "window":
        return windows
    if scope == "sequence":
        whole = 2 * terms.sum(axis=-1)[..., None, None]
        return np.asarray(np.broadcast_to(whole, windows.shape))
    return scope_sums(starts(terms.shape[-1], scope), terms, windows)


def scope_length(S: int, scope: str | int, rows: slice = slice(None)) -> Array:
    """Return n, the number of terms in the error scope, [t, s]. rows: the times t."""
    t, s = _positions(S)
    t = t[rows]
    if scope == "sequence":
        return np.full((len(t), S), S + 2.0)
    if scope == "window":
        return np.maximum(t - s, 0)
    return np.maximum(t - starts(S, scope)[None, :], 0) + 2


def derivative_scope(error_scope: str | int) -> str:
    """Return the error scope of J v: the window, or the whole sequence for every wider contract.

    J is the adjoint of the gradient. A contract wider than the window lets the gradient sum the sequence from
    either end (docs/spec.md section 3), and the adjoint of a sum from one end is a sum from the other.
    """
    return "window" if error_scope == "window" else "sequence"


def no_larger(low: Array, error: Array, high: Array) -> Array:
    """Return, for each entry of `high`, the sum of `error` over its row's entries with low <= high."""
    S = low.shape[-1]
    with np.errstate(invalid="ignore"):
        order = np.argsort(np.concatenate([low, high], -1), axis=-1, kind="stable")
        padded = np.concatenate([error, np.zeros_like(high)], -1)
        sums = np.cumsum(np.take_along_axis(padded, order, -1), -1)
    where = np.argsort(order, axis=-1)[..., S:]
    return np.asarray(np.take_along_axis(sums, where, -1))


def scope_sums(start: npt.NDArray[Any], terms: Array, windows: Array) -> Array:
    """Sum the magnitudes from each source's start up to the row t, plus those from the start up to s.

    Each sum is the gate at the start, and its window. windows: of all rows t, or a block of them.
    """
    down_to = windows[..., :, start] + terms[..., None, start]  # [..., t, s]
    whole = windows.shape[-2] == windows.shape[-1]
    down_to_s = np.diagonal(down_to, axis1=-2, axis2=-1) if whole else from_start(start, terms)
    return np.asarray(down_to + down_to_s[..., None, :])


def product(left: Array, right: Array) -> Array:
    """Return left @ right. 0 times inf gives NaN there, and an entry with such an error is free."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(left @ right)


def from_start(start: npt.NDArray[Any], terms: Array) -> Array:
    """Sum the magnitudes from each source's start up to the source itself, into [..., s]."""
    found = np.zeros_like(terms)
    for first in np.unique(start):
        own = np.flatnonzero(start == first)
        found[..., own] = np.cumsum(terms[..., first : own[-1] + 1], -1)[..., own - first]
    return found
