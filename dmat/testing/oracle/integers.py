"""D~ and its gradients on integers, the exact regime, where nothing rounds."""

from __future__ import annotations

import numpy as np

from dmat.testing.oracle.arithmetic import Array

# The exact regime: integers


def integer_dtilde(igate: Array, fgate: Array) -> Array:
    """Return D~ of gates of the exact regime, in integer arithmetic: log sigmoid(f) = f, 0 at f = +inf."""
    S = igate.shape[-1]
    log = np.where(np.isfinite(fgate), fgate, 0.0).astype(np.int64)
    prefix = np.cumsum(log, axis=-1)
    dtilde = prefix[..., :, None] - prefix[..., None, :] + igate.astype(np.int64)[..., None, :]
    return np.where(np.tri(S, dtype=bool), dtilde.astype(np.float64), -np.inf)


def integer_gradients(fgate: Array, G: Array) -> tuple[Array, Array]:
    """Return di and df of integer cotangents in the exact regime, in integer arithmetic."""
    causal = np.tril(G).astype(np.int64)
    S = fgate.shape[-1]
    left = np.zeros_like(causal)
    left[..., 1:] = np.cumsum(causal, axis=-1)[..., :-1]
    rectangle = np.where(np.tri(S, dtype=bool), left, 0).sum(axis=-2)
    df = np.where(np.isfinite(fgate), rectangle, 0)
    return causal.sum(axis=-2).astype(np.float64), df.astype(np.float64)


def exact_rows(S: int, rows: slice) -> Array:
    """Return D~ of `spaced_gates` (dmat.testing.law.cuda) in these rows, (rows, S)."""
    time = np.arange(S)
    log = np.where(time % 7 == 0, -128, -64).cumsum()
    dtilde = log[rows, None] - log[None, :] + 64 * (time % 3)[None, :]
    return np.where(time[rows, None] >= time[None, :], dtilde.astype(np.float64), -np.inf)
