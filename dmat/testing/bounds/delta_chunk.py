"""One chunk of a delta rule: its parts in float64, their magnitudes, and their magnitudes with errors.

docs/fused.md section 5, whose symbols are used. In a name, `_plus` is a magnitude with its error. Rows are i,
columns j; E[i, j] = exp(G_i - G_j) has a last axis of 1, or of K where gates differ by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.bounds.delta_inverse import Inversion, solve
from dmat.testing.bounds.formats import (
    CONDITION_ULPS,
    LOG_SIGMOID_ULPS,
    FusedRounding,
    gamma,
)
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import swapped

EXP_ARGUMENT = 4  # exp(x) is 2^(x log2 e): the relative error of its argument, in u_a
PER_FACTOR = 6  # an exponential, and the product with it, in u_a
PRODUCT = 8  # scale, copies, casts, in u_a
NORM = 4  # root, division, product, store of a normalised key, in u_a
LOGIT_ULPS = 24  # beta = beta_max sigmoid(b), |b| at most 16 unless beta is 0 or beta_max, in u_a
LARGEST_LOG = 700.0  # exp of it is finite in float64


def pair(x: Array, y: Array, E: Array) -> Array:
    """Return the sum over channels d of x_id y_jd E[i, j]_d, (..., n, n)."""
    if E.shape[-1] == 1:
        return np.asarray((x @ swapped(y)) * E[..., 0])
    return np.asarray(np.einsum("...ik,...jk,...ijk->...ij", x, y, E))


def into(Y: Array, x: Array, E: Array) -> Array:
    """Return the sum over j of Y[i, j] x_j E[i, j], (..., n, K)."""
    if E.shape[-1] == 1:
        return np.asarray((Y * E[..., 0]) @ x)
    return np.asarray(np.einsum("...ij,...jk,...ijk->...ik", Y, x, E))


def onto(Y: Array, x: Array, E: Array) -> Array:
    """Return the sum over i of Y[i, j] x_i E[i, j], (..., n, K)."""
    if E.shape[-1] == 1:
        return np.asarray(swapped(Y * E[..., 0]) @ x)
    return np.asarray(np.einsum("...ij,...ik,...ijk->...jk", Y, x, E))


@dataclass(frozen=True)
class Rates:
    """How far one factor of a chunk rounds.

    steps: whether chunks are of one time, so that nothing between rows is exponentiated. normalised: whether
    the kernel divides k and q by their norms. absolute: whether log sigmoid keeps an absolute error only.
    logit: whether the kernel computes beta as a sigmoid.
    """

    rounding: FusedRounding
    K: int
    steps: bool
    normalised: bool
    absolute: bool
    logit: bool = False

    def factor(self, normed: int, operands: int) -> float:
        """Return the error of the logarithm of a factor, without its gates.

        normed: how many normalised keys and queries are in it. operands: its roundings as an operand.
        """
        u_a, u_m = self.rounding.u_a, self.rounding.u_m
        norm = (self.K / 2 + NORM) * u_a + u_m if self.normalised else 0.0
        exponentials = 1 if self.steps else 3
        more = LOGIT_ULPS * self.logit
        return u_a * (PER_FACTOR * exponentials + self.K + PRODUCT + more) + operands * u_m + normed * norm

    def gates(self, sums: Sequence[Array], n: int) -> Array:
        """Return the error of sums of log gates in chunks of n: their magnitudes, conditions, and counts."""
        u_a, (sizes, conditions, counts) = self.rounding.u_a, sums
        error = (
            gamma(n + 2 + LOG_SIGMOID_ULPS + EXP_ARGUMENT, u_a) * sizes + CONDITION_ULPS * u_a * conditions
        )
        return np.asarray(error + gamma(LOG_SIGMOID_ULPS, u_a) * counts * self.absolute)


@dataclass(frozen=True)
class Given:
    """What a chunk is made of: q, k (..., n, K), v (..., n, V), beta (..., n, 1), written: U, (..., n, V).

    log, condition: of the gates, (..., n, Kg). closed: whether a gate is -inf, (..., n, Kg). state: S at its
    start, (..., K, V). scale: of the output.
    """

    q: Array
    k: Array
    v: Array
    beta: Array
    written: Array
    log: Array
    condition: Array
    closed: Array
    state: Array
    scale: float


@dataclass(frozen=True)
class Chunk:
    """One chunk. dS: the error of the state that the kernel holds at its start, (..., K, V)."""

    given: Given
    rates: Rates
    inversion: Inversion
    dS: Array

    @property
    def n(self) -> int:
        """The number of rows."""
        return int(self.given.q.shape[-2])

    # Decays

    @cached_property
    def G(self) -> Array:
        """The sums of log gates from the chunk's start, (..., n, Kg)."""
        return np.cumsum(self.given.log, -2)

    @cached_property
    def sums(self) -> tuple[Array, Array, Array]:
        """The magnitudes of the sums of log gates, their conditions, and how many gates they have."""
        counts = np.broadcast_to(np.arange(1.0, self.n + 1)[:, None], self.G.shape)
        return np.abs(self.G), np.cumsum(self.given.condition, -2), counts

    @cached_property
    def shut(self) -> Array:
        """How many gates up to a row are -inf, (..., n, Kg)."""
        return np.cumsum(self.given.closed, -2)

    def _between(self, x: Array) -> Array:
        return x[..., :, None, :] + x[..., None, :, :]

    # Exponents: -inf above the diagonal, and across a gate of -inf

    @cached_property
    def between(self) -> Array:
        """G_i - G_j, (..., n, n, Kg)."""
        low = np.tri(self.n, dtype=bool)[:, :, None]
        same = self.shut[..., :, None, :] == self.shut[..., None, :, :]
        return np.where(low & same, self.G[..., :, None, :] - self.G[..., None, :, :], -np.inf)

    @cached_property
    def from_start(self) -> Array:
        """G_i, (..., n, Kg)."""
        return np.where(self.shut > 0, -np.inf, self.G)

    @cached_property
    def E(self) -> Array:
        """exp(G_i - G_j), (..., n, n, Kg)."""
        return self._exp(self.between)

    @cached_property
    def eG(self) -> Array:
        """exp(G_i), (..., n, Kg)."""
        return self._exp(self.from_start)

    @cached_property
    def to_end(self) -> Array:
        """exp(G_last - G_i), (..., n, Kg)."""
        return self.E[..., -1, :, :]

    @cached_property
    def whole(self) -> Array:
        """exp(G_last), (..., Kg, 1)."""
        return self.eG[..., -1, :, None]

    @cached_property
    def E_of_pairs(self) -> Array:
        """E with its error, as the factor of a product of two keys, a beta and a decay."""
        return self.E_plus(4)

    def E_plus(self, operands: int) -> Array:
        """E with its error, as the factor of a product of two keys or queries."""
        error: Array | float = 0.0
        if not self.rates.steps:
            error = self.rates.gates([self._between(x) for x in self.sums], self.n)
        return self._exp(self.between, error + self.rates.factor(2, operands))

    @cached_property
    def eG_plus(self) -> Array:
        """exp(G_i) with its error."""
        return self._exp(self.from_start, self.rates.gates(self.sums, self.n) + self.rates.factor(1, 2))

    @cached_property
    def to_end_plus(self) -> Array:
        """exp(G_last - G_i) with its error."""
        error: Array | float = 0.0
        if not self.rates.steps:
            error = self.rates.gates([x[..., -1:, :] + x for x in self.sums], self.n)
        return self._exp(self.between[..., -1, :, :], error + self.rates.factor(1, 2))

    @cached_property
    def whole_plus(self) -> Array:
        """exp(G_last) with its error."""
        sums = [x[..., -1, :, None] for x in self.sums]
        error = self.rates.gates(sums, self.n) + self.rates.factor(0, 1)
        return self._exp(self.from_start[..., -1, :, None], error)

    @staticmethod
    def _exp(exponent: Array, error: Array | float = 0.0) -> Array:
        """Return exp of an exponent with its error, which is added first.

        Sums near -1e15 lose all digits of -1000: a kernel may have 1 there, although exp(-1000) is 0.
        """
        return np.exp(np.minimum(exponent + error, LARGEST_LOG))

    # Magnitudes of the inputs

    @cached_property
    def q(self) -> Array:
        """|q|."""
        return np.abs(self.given.q)

    @cached_property
    def k(self) -> Array:
        """|k|."""
        return np.abs(self.given.k)

    @cached_property
    def beta(self) -> Array:
        """|beta|, (..., n, 1)."""
        return np.abs(self.given.beta)

    # A, T, P

    @cached_property
    def strict(self) -> Array:
        """1 below the diagonal, (n, n)."""
        return np.tri(self.n, k=-1)

    @cached_property
    def A(self) -> Array:
        """A."""
        return np.asarray(self.given.beta * pair(self.given.k, self.given.k, self.E) * self.strict)

    @cached_property
    def kk(self) -> Array:
        """The magnitude of A over beta."""
        return np.asarray(pair(self.k, self.k, self.E) * self.strict)

    @cached_property
    def kk_plus(self) -> Array:
        """The magnitude of A over beta, with its error."""
        return np.asarray(pair(self.k, self.k, self.E_of_pairs) * self.strict)

    @cached_property
    def T(self) -> Array:
        """T = (I + A)^-1."""
        return solve(-self.A, np.broadcast_to(np.eye(self.n), self.A.shape))

    @cached_property
    def X(self) -> Array:
        """|T|."""
        return np.abs(self.T)

    @cached_property
    def F(self) -> Array:
        """The error of T."""
        return self.inversion.error(self.A, self.beta * (self.kk_plus - self.kk), self.T)

    @cached_property
    def T_plus(self) -> Array:
        """|T| with its error."""
        return self.X + self.F

    @cached_property
    def P(self) -> Array:
        """P."""
        return pair(self.given.q, self.given.k, self.E)

    @cached_property
    def qk(self) -> Array:
        """The magnitude of P."""
        return pair(self.q, self.k, self.E)

    @cached_property
    def qk_plus(self) -> Array:
        """The magnitude of P, with its error."""
        return pair(self.q, self.k, self.E_plus(3))

    # W, U, and how the chunk and its rows read the state

    @cached_property
    def W(self) -> Array:
        """W = T rk."""
        return np.asarray(self.T @ (self.given.beta * self.given.k * self.eG))

    @cached_property
    def rk(self) -> tuple[Array, Array]:
        """The magnitude of rk, and that with its error."""
        return self.beta * self.k * self.eG, self.beta * self.k * self.eG_plus

    @cached_property
    def S_plus(self) -> Array:
        """|S| with its error."""
        return np.abs(self.given.state) + self.dS

    @cached_property
    def R(self) -> tuple[Array, Array]:
        """The magnitude of rv - rk S, and that with its error."""
        rv = self.beta * np.abs(self.given.v)
        plus = rv * float(np.exp(self.rates.factor(0, 2)))
        return rv + self.rk[0] @ self.S_plus, plus + self.rk[1] @ self.S_plus

    @property
    def eps_U(self) -> float:
        """The rounding of a product over n rows, the subtraction, and T, W, S, U as operands."""
        return float(gamma(self.n + 4, self.rates.rounding.u_a)) + 4 * self.rates.rounding.u_m

    @cached_property
    def dU_own(self) -> Array:
        """The error that this chunk adds to U."""
        R, R_plus = self.R
        return np.asarray(self.F @ R_plus + self.X @ (R_plus - R) + self.eps_U * (self.T_plus @ R_plus))

    @cached_property
    def dU(self) -> Array:
        """The error of U."""
        return np.asarray(self.dU_own + np.abs(self.W) @ self.dS)

    @cached_property
    def U_plus(self) -> Array:
        """|U| with its error."""
        return np.abs(self.given.written) + self.dU

    @cached_property
    def U_terms(self) -> Array:
        """The magnitude of the terms of U, with their error."""
        return np.asarray((1 + self.eps_U) * (self.T_plus @ self.R[1]))

    @cached_property
    def kd(self) -> tuple[Array, Array]:
        """The magnitude of kd, and that with its error."""
        return self.k * self.to_end, self.k * self.to_end_plus

    @cached_property
    def qe(self) -> tuple[Array, Array]:
        """The magnitude of q e^G, and that with its error."""
        return self.q * self.eG, self.q * self.eG_plus

    @cached_property
    def reads(self) -> Array:
        """r, (..., n, K): how the rows of the output read the state at the chunk's start."""
        return np.asarray(self.given.scale * (self.given.q * self.eG - self.P @ self.W))

    def passed_on(self, Q: Array) -> Array:
        """Return Pi Q, Pi what the chunk does to a state, without forming Pi."""
        return np.asarray(self.whole * Q - swapped(self.given.k * self.to_end) @ (self.W @ Q))

    def passed_back(self, Q: Array) -> Array:
        """Return Pi' Q."""
        return np.asarray(self.whole * Q - swapped(self.W) @ ((self.given.k * self.to_end) @ Q))

    # Errors that this chunk adds

    @cached_property
    def output_error(self) -> Array:
        """The error of the chunk's outputs, without what the error of the state at its start adds."""
        g, (qe, qe_plus), u = self.given, self.qe, self.rates.rounding
        eps = float(gamma(self.n + g.q.shape[-1] + 10, u.u_a)) + 2 * u.u_m
        of_state = (qe_plus - qe) @ self.S_plus + eps * (qe_plus @ self.S_plus)
        of_rows = (self.qk_plus - self.qk) @ self.U_plus + np.abs(self.P) @ self.dU_own
        return np.asarray(abs(g.scale) * (of_state + of_rows + eps * (self.qk_plus @ self.U_plus)))

    @cached_property
    def state_error(self) -> Array:
        """The error that this chunk adds to the state at its end, (..., K, V)."""
        u, (kd, kd_plus) = self.rates.rounding, self.kd
        eps = float(gamma(self.n + 8, u.u_a)) + 2 * u.u_m
        kept = (self.whole_plus - self.whole) * self.S_plus + eps * self.whole_plus * self.S_plus
        added = swapped(kd_plus - kd) @ self.U_plus + eps * swapped(kd_plus) @ self.U_plus
        return np.asarray(kept + added + swapped(kd) @ self.dU_own)

    @cached_property
    def largest(self) -> Array:
        """The largest magnitude on the way, (...)."""
        ways = [self.T_plus, self.U_terms, self.R[1], self.S_plus, self.qk_plus, self.kk_plus]
        if self.inversion.doubling is not None:
            ways += [self.inversion.paths(np.abs(self.A) + self.beta * (self.kk_plus - self.kk))[0]]
        return np.asarray(np.max([x.max((-1, -2), initial=0.0) for x in ways], axis=0))
