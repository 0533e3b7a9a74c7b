"""How far rounding may take the gradients of one chunk of a delta rule: docs/fused.md section 5."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.bounds.delta_chunk import Chunk, into, onto
from dmat.testing.bounds.formats import gamma
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import swapped

Term = tuple[Array, Array]  # an error, and the magnitude of the terms


@dataclass(frozen=True)
class ChunkBack:
    """The gradients of one chunk. W: |W_o|. H: the exact gradient of the state after it, dH its error."""

    chunk: Chunk
    W: Array
    H: Array
    dH: Array

    @cached_property
    def eps(self) -> float:
        """The rounding of sums over rows, channels and columns, and of their operands."""
        c, u = self.chunk, self.chunk.rates.rounding
        depth = 2 * c.n + c.given.q.shape[-1] + c.given.v.shape[-1] + 24
        return float(gamma(depth, u.u_a)) + 8 * u.u_m

    @cached_property
    def H_plus(self) -> Array:
        """|H| with its error."""
        return np.abs(self.H) + self.dH

    # The gradients of U and R

    @cached_property
    def dU(self) -> Term:
        """The gradient of U: its error, and its magnitude with the error."""
        c, size = self.chunk, abs(self.chunk.given.scale)
        kd, kd_plus = c.kd
        plus = size * swapped(c.qk_plus) @ self.W + kd_plus @ self.H_plus
        plain = size * swapped(c.qk) @ self.W + kd @ self.H_plus
        return plus - plain + self.eps * plus, plus

    @cached_property
    def dR_own(self) -> Array:
        """The error that this chunk adds to the gradient of R."""
        c, (error, plus) = self.chunk, self.dU
        more = self.eps * (swapped(c.T_plus) @ plus)
        return np.asarray(swapped(c.F) @ plus + swapped(c.X) @ error + more)

    @cached_property
    def dR(self) -> Term:
        """The gradient of R: its error, and its magnitude with the error."""
        c, grown = self.chunk, (1 + self.eps) ** 2
        through = np.abs(swapped(c.T) @ (c.given.k * c.to_end)) @ self.dH
        return self.dR_own + through, grown * (swapped(c.T_plus) @ self.dU[1])

    # The gradients of A and P, without beta and scale

    @cached_property
    def through_powers(self) -> Array:
        """What is left of the gradient of A where a backward goes through the powers, (..., n, n)."""
        c = self.chunk
        if c.inversion.doubling is None:
            return np.zeros_like(c.A)
        N, more = c.inversion.paths(np.abs(c.A) + c.beta * (c.kk_plus - c.kk), 2)
        D = self.dU[1] @ swapped(c.R[1]) * (1 + self.eps)
        return np.asarray(swapped(more) @ D @ swapped(N + more) + swapped(N) @ D @ swapped(more))

    @cached_property
    def dA(self) -> Term:
        """The gradient of A over beta: its error and magnitude."""
        c, (error, plus) = self.chunk, self.dR
        own = error @ swapped(c.U_terms) + plus @ swapped(c.dU) + self.through_powers
        return own * c.strict, (plus @ swapped(c.U_terms)) * c.strict

    @cached_property
    def dP(self) -> Term:
        """The gradient of P: its error and magnitude."""
        return self.W @ swapped(self.chunk.dU), self.W @ swapped(self.chunk.U_terms)

    # The gradients of the inputs: error and magnitude of each part

    @cached_property
    def E_plus(self) -> Array:
        """E with its error, for a term of a gradient."""
        return self.chunk.E_of_pairs

    def _summed(self, way: object, Y: Term, x: Array) -> Term:
        """Return the error and the magnitude of the sum of Y x E. way: `into` or `onto`."""
        assert callable(way)
        magnitude = way(Y[1], x, self.E_plus)
        error = way(Y[0], x, self.E_plus) + magnitude - way(Y[1], x, self.chunk.E)
        return error + self.eps * magnitude, magnitude

    def _of_state(self, x: Array, dx: Array) -> Term:
        """Return the error and the magnitude of e^G S x', x with error dx."""
        c, S_plus = self.chunk, swapped(self.chunk.S_plus)
        magnitude = c.eG_plus * (x @ S_plus)
        error = c.eG_plus * (x @ swapped(c.dS) + dx @ S_plus) + (c.eG_plus - c.eG) * (x @ S_plus)
        return error + self.eps * magnitude, magnitude

    @cached_property
    def q(self) -> Term:
        """The gradient of q."""
        size, c = abs(self.chunk.given.scale), self.chunk
        state, rows = self._of_state(self.W, np.zeros_like(self.W)), self._summed(into, self.dP, c.k)
        return size * (state[0] + rows[0]), size * (state[1] + rows[1])

    @cached_property
    def k_end(self) -> Term:
        """The part of the gradient of k that comes from the end of the chunk."""
        c, H = self.chunk, swapped(self.H_plus)
        magnitude = c.to_end_plus * (c.U_terms @ H)
        error = c.to_end_plus * (c.U_terms @ swapped(self.dH) + c.dU @ H)
        error = error + (c.to_end_plus - c.to_end) * (c.U_terms @ H)
        return error + self.eps * magnitude, magnitude

    @cached_property
    def k(self) -> Term:
        """The gradient of k: of its row of A and its reading of S, of its columns of A and P, of the end."""
        c, size = self.chunk, abs(self.chunk.given.scale)
        state = self._of_state(self.dR[1], self.dR[0])
        rows = self._summed(into, self.dA, c.k)
        columns = self._summed(onto, (c.beta * self.dA[0], c.beta * self.dA[1]), c.k)
        queries = self._summed(onto, (size * self.dP[0], size * self.dP[1]), c.q)
        error, magnitude = (
            c.beta * (a + b) + d + e + f
            for a, b, d, e, f in zip(state, rows, columns, queries, self.k_end, strict=True)
        )
        return error, magnitude

    @cached_property
    def v(self) -> Array:
        """The error of the gradient of v."""
        error, plus = self.dR
        return np.asarray(self.chunk.beta * (error + self.eps * plus))

    @cached_property
    def b(self) -> Array:
        """The error of the gradient of beta, (..., n)."""
        c, (error, plus) = self.chunk, self.dR
        size = np.abs(c.given.v) + (c.k * c.eG_plus) @ c.S_plus + c.kk_plus @ c.U_terms
        size_error = (c.k * c.eG_plus) @ c.dS + c.kk_plus @ c.dU
        size_error = size_error + (c.k * (c.eG_plus - c.eG)) @ c.S_plus + (c.kk_plus - c.kk) @ c.U_terms
        terms = error * size + plus * size_error + self.eps * plus * size
        return np.asarray(terms.sum(-1) + (self.through_powers * c.kk_plus).sum(-1))

    @cached_property
    def g(self) -> Term:
        """The gradient of the log gates: its error and magnitude, (..., n, K), before sums over channels."""
        c, u_a = self.chunk, self.chunk.rates.rounding.u_a
        n, K, V = c.n, c.given.q.shape[-1], c.given.v.shape[-1]
        (e_q, m_q), (e_k, m_k), (e_end, m_end) = self.q, self.k, self.k_end
        errors, sizes = c.q * e_q + c.k * e_k, c.q * m_q + c.k * m_k
        kept = c.whole_plus * c.S_plus * self.H_plus
        kept_error = c.whole * (c.dS * self.H_plus + c.S_plus * self.dH)
        kept_error = kept_error + (c.whole_plus - c.whole) * c.S_plus * self.H_plus + self.eps * kept
        errors[..., -1, :] += (c.k * e_end).sum(-2) + kept_error.sum(-1)
        sizes[..., -1, :] += (c.k * m_end).sum(-2) + kept.sum(-1)
        errors, sizes = (np.flip(np.cumsum(np.flip(x, -2), -2), -2) for x in (errors, sizes))
        return errors + gamma(3 * n + K + V + 30, u_a) * sizes, sizes

    @cached_property
    def state_error(self) -> Array:
        """The error that this chunk adds to the gradient of the state at its start, (..., K, V)."""
        c, size = self.chunk, abs(self.chunk.given.scale)
        (qe, qe_plus), (rk, rk_plus), plus = c.qe, c.rk, self.dR[1]
        error = (c.whole_plus - c.whole) * self.H_plus + size * swapped(qe_plus - qe) @ self.W
        error = error + swapped(rk) @ self.dR_own + swapped(rk_plus - rk) @ plus
        kept = c.whole_plus * self.H_plus + size * swapped(qe_plus) @ self.W + swapped(rk_plus) @ plus
        return np.asarray(error + self.eps * kept)

    @cached_property
    def largest(self) -> Array:
        """The largest magnitude on the way, (...)."""
        ways = [self.H_plus, self.dR[1], self.dA[1], self.q[1], self.k[1], self.g[1]]
        return np.asarray(np.max([x.max((-1, -2), initial=0.0) for x in ways], axis=0))
