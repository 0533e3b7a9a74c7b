"""How far the computed inverse of I + A may be from T = (I + A)^-1 in a chunk of a delta rule.

docs/fused.md section 5. A, T and errors are (..., n, n), A strictly lower triangular. Nothing is linearised.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dmat.testing.bounds.formats import gamma
from dmat.testing.oracle.arithmetic import Array, Mask

BLOCKS = (1, 2, 4, 8, 16, 32, 64)  # sizes of diagonal blocks that a substitution may merge
GROWN = 1 + 2.0**-16  # so much larger is an error tried than the last one given
TOGETHER = 32  # rows up to which all sizes are merged in one array: larger arrays gain nothing


def solve(L: Array, X: Array) -> Array:
    """Return (I - L)^-1 X. L is strictly lower triangular, and none of its entries is negative."""
    out = np.array(X)
    for i in range(1, X.shape[-2]):
        out[..., i, :] += (L[..., i : i + 1, :i] @ out[..., :i, :])[..., 0, :]
    return out


def within(n: int, size: int) -> Mask:
    """Return whether (i, j) lies in one diagonal block of this size, (n, n)."""
    block = np.arange(n) // size
    return np.asarray(block[:, None] == block[None, :])


@dataclass(frozen=True)
class Inversion:
    """How I + A is inverted. u_a: of the accumulator. u_i: of the operands of its products, 0 if they are
    not narrower. doubling: the block within which powers of A are multiplied; None for substitution.
    """

    u_a: float
    u_i: float
    doubling: int | None

    def paths(self, B: Array, times: int = 1) -> tuple[Array, Array]:
        """Return N = (I - B)^-1 within i - j < doubling, and its error where every path's products round.

        B: the magnitude of A with its error. times: how often each product of a path rounds.
        """
        assert self.doubling is not None
        n = B.shape[-1]
        each = float(((1 + gamma(self.doubling + 4, self.u_a)) * (1 + self.u_i) ** 2) ** times - 1)
        near = B * (np.arange(n)[:, None] - np.arange(n)[None, :] < self.doubling)
        N = solve(near, np.broadcast_to(np.eye(n), B.shape))
        return N, solve((1 + each) * near, each * near @ N)

    def error(self, A: Array, dA: Array, T: Array) -> Array:
        """Return F, a bound on |computed T - T|. dA: the error of A."""
        if self.doubling is not None:
            inner = self.paths(np.abs(A) + dA)[1] + solve(np.abs(T) @ dA, np.abs(T) @ dA @ np.abs(T))
            return self._merged(A, dA, T, inner, (self.doubling,))
        X, n = np.abs(T), A.shape[-1]
        D = dA + self._eta(n) * (np.abs(A) + dA)
        whole = solve(X @ D, X @ D @ X)
        sizes = tuple(size for size in BLOCKS if size < n)
        groups = [sizes] if n <= TOGETHER else [(size,) for size in sizes]
        return np.asarray(
            np.max([whole, *(self._merged(A, dA, T, whole, group) for group in groups)], axis=0)
        )

    def _eta(self, n: int) -> float:
        return float(gamma(n + 2, self.u_a)) + 2 * self.u_i

    def _merged(self, A: Array, dA: Array, T: Array, inner: Array, sizes: Sequence[int]) -> Array:
        """Return the bound of diagonal blocks that are merged, by block rows or by halves; the largest.

        inner: the error of the diagonal blocks. sizes: of the blocks. The bound stands on both sides: it
        holds as soon as what it gives is no larger than what it was given. It gives products of two errors,
        so that what is given may be somewhat too large.
        """
        n = A.shape[-1]
        merge = Merge.of(n, tuple(size for size in sizes if size < n), A.ndim)
        if not merge.sizes:
            return inner
        X, B, eta = np.abs(T), np.abs(A) + dA, self._eta(n)
        inner = np.where(merge.same, inner, 0.0)  # (sizes, ..., n, n)
        front = np.where(merge.same, inner + B @ inner, 0.0)  # the residual of the diagonal block in front
        products = np.abs((A * ~merge.same) @ T), [np.abs(A @ (T * half)) for half, _, _ in merge.steps]
        F = inner
        for _ in range(n + 2):
            residual = self._residual(merge, products, front, dA + eta * B, B, X + F, F, eta)
            new = np.maximum(X @ residual, inner)
            if np.all(new <= F + 1e-300) or not np.isfinite(new).all():
                return np.asarray(new.max(0))
            F = np.maximum(new, F) * GROWN
        return np.asarray(F.max(0))

    @staticmethod
    def _residual(
        merge: Merge,
        products: tuple[Array, list[Array]],
        front: Array,
        error: Array,
        B: Array,
        T_plus: Array,
        F: Array,
        eta: float,
    ) -> Array:
        """Return the larger of the residuals |L T^ - I| of merging by rows and by halves, for each size.

        products: |sum of A T| of the rows, and of each step of the halves. error: dA + eta B.
        """
        same, (of_rows, of_halves) = merge.same, products
        own = error @ T_plus  # of the product of A with the blocks of T
        off, BT = B @ F + own, B @ T_plus
        again = 2 * eta * (T_plus + BT)
        rows = front @ np.where(same, 0.0, of_rows + off)
        rows = rows + np.where(same, again, 0.0) @ np.where(same, 0.0, BT) + own
        rows, halves = np.where(same, front, rows), front
        for (half, here, merged), sums in zip(merge.steps, of_halves, strict=True):
            new = np.where(half, halves, 0.0) @ np.where(here, sums + off, 0.0)
            new = new + np.where(half, again, 0.0) @ np.where(here, BT, 0.0) + own
            halves = np.where(here & merged, new, halves)
        return np.maximum(rows, halves)


@dataclass(frozen=True)
class Merge:
    """How diagonal blocks of each of some sizes are merged in n rows. Every mask has the sizes in front.

    same: whether (i, j) lies in one block. steps: of merging two halves into a block of twice their size,
    for each size of a half: whether (i, j) lies in one half, whether in two halves of one block, and whether
    the halves are merged ones, or the blocks themselves.
    """

    sizes: tuple[int, ...]
    same: Mask
    steps: tuple[tuple[Mask, Mask, Mask], ...]

    @classmethod
    @functools.cache
    def of(cls, n: int, sizes: tuple[int, ...], ndim: int) -> Merge:
        """Return the masks for arrays of so many axes."""
        wide = (len(sizes), *(1,) * (ndim - 2), n, n)
        same = np.array([within(n, size) for size in sizes], dtype=bool).reshape(wide)
        steps, reach = [], min(sizes, default=n)
        while reach < n:
            half = within(n, reach)
            here = within(n, 2 * reach) & ~half
            merged = np.array([size <= reach for size in sizes]).reshape(-1, *(1,) * ndim)
            steps.append((half, here, merged))
            reach *= 2
        return cls(sizes, same, tuple(steps))
