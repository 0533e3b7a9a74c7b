"""Recipes of equal terms: sums whose partial sums fit no half type (docs/fused.md section 10)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dmat.strategies.promised import Scaling
from dmat.strategies.recipes.backgrounds import Array

TERM = 0.7  # sums of ones are exact, and such of 0.7 are not
SCORES = (0.25, 0.5, 1.0)  # by how much one score of a softmax is above the rest


class Numbered(Protocol):
    """The fields of a QKV recipe that say which equal terms it has."""

    @property
    def K(self) -> int:
        """The size of q and k."""

    @property
    def seed(self) -> int:
        """The number of the recipe, from 1."""

    @property
    def pull(self) -> int:
        """0 for a cotangent of ones, 1 for one of the last row alone."""


def equal_products(
    qkv: Numbered, shape: tuple[int, int, int], heads: int, V: int, scale: float, scaling: Scaling
) -> tuple[Array, Array, Array]:
    """Return q, k, v. shape: that of the gates of key heads. heads: the number of value heads.

    v is 0.7. Each product scale q_d k_d is 0.7; of a softmax all scores are 0 but that of one source, the
    first, the middle or the last one.
    """
    B, own, S = shape
    v = np.full((B, heads, S, V), TERM)
    if scaling.multiplies:
        q = np.full((B, own, S, qkv.K), np.sqrt(TERM / scale))
        return q, q.copy(), v
    q, k = np.zeros((B, own, S, qkv.K)), np.zeros((B, own, S, qkv.K))
    q[..., 0] = 1.0
    k[:, :, (0, S // 2, S - 1)[qkv.seed // len(SCORES) % 3], 0] = SCORES[qkv.seed % len(SCORES)] / scale
    return q, k, v


def equal_cotangent(qkv: Numbered, shape: tuple[int, ...]) -> Array:
    """Return a cotangent of ones, or one of the last row alone, with terms of dl of 0.7 K."""
    if not qkv.pull:
        return np.ones(shape)
    last = np.zeros(shape)
    last[:, :, -1:] = 1 / TERM
    return last
