"""The true results of a fused kernel, in float64, with bounds on their own error: docs/fused.md, 1 and 2.

a[t, s] = w[s] E[t, s] scale (q_t . k_s), E = exp(D~); o[t] = sum of a[t, s] v_s, divided by a normaliser if
there is one. Every array is (B, NH, t, s) unless its docstring gives another shape. This module only filters:
the balls of fused_balls.py confirm an entry before a finding accuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array, single
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.oracle.gates import GateTerms, window_sums
from dmat.testing.oracle.reads import SUMS, Sums

U64 = 2.0**-53


@dataclass(frozen=True)
class Gated:
    """The gates of one call."""

    contract: FusedContract
    inputs: CallInputs

    @cached_property
    def terms(self) -> GateTerms | None:
        """The functions of each gate; None if the gates are not pre-activations."""
        if self.contract.gate != "preact":
            return None
        return GateTerms.of(np.where(np.isfinite(self.inputs.fgate), self.inputs.fgate, 0.0), wide=False)

    @cached_property
    def log(self) -> Array:
        """The log gates l, (B, NH, S). A gate of -inf counts as 0 here: `unread` masks what it closes."""
        log = self.inputs.fgate if self.terms is None else self.terms.log.hi
        return np.where(np.isfinite(self.inputs.fgate), log, 0.0)

    @cached_property
    def rate(self) -> Array:
        """dl / d gate, (B, NH, S)."""
        return np.ones_like(self.log) if self.terms is None else self.terms.rate.hi

    @cached_property
    def condition(self) -> Array:
        """|f| sigmoid(-f), the condition of l in f, (B, NH, S); 0 where l is given."""
        return np.zeros_like(self.log) if self.terms is None else self.terms.log_condition

    @property
    def scale(self) -> float:
        """The factor of q.k."""
        return self.contract.scale_of(self.inputs.q.shape[-1])


@dataclass(frozen=True)
class Truth(Gated):
    """The true values of one call of a sum."""

    @property
    def reads(self) -> type[Sums]:
        """The kind of operator."""
        return SUMS[self.contract.reads]

    @cached_property
    def windows(self) -> Array:
        """The sum of l over s < k <= t; 0 for s >= t."""
        return window_sums(single(self.log), wide=False).hi

    @cached_property
    def weight(self) -> Array:
        """w[s], as (B, NH, 1, S)."""
        weight = -self.log if self.contract.weight == "dt" else np.ones_like(self.log)
        return weight[..., None, :]

    # Products

    @cached_property
    def dtilde(self) -> Array:
        """D~, -inf at the sources that a row does not read."""
        return np.where(self.inputs.unread, -np.inf, self.windows + self.inputs.igate[..., None, :])

    @cached_property
    def products(self) -> Array:
        """scale (q_t . k_s)."""
        return np.asarray(self.scale * np.einsum("bhtd,bhsd->bhts", self.inputs.q, self.inputs.k))

    @cached_property
    def product_sizes(self) -> Array:
        """scale (|q_t| . |k_s|)."""
        return np.asarray(
            self.scale * np.einsum("bhtd,bhsd->bhts", np.abs(self.inputs.q), np.abs(self.inputs.k))
        )

    @cached_property
    def exponent(self) -> Array:
        """The exponent of E: D~; in a softmax D~ + scale q.k."""
        return self.reads.exponent(self.dtilde, self.products)

    @cached_property
    def E(self) -> Array:
        """E = exp(exponent)."""
        with np.errstate(under="ignore", over="ignore"):
            return np.exp(self.exponent)

    @cached_property
    def a(self) -> Array:
        """The coefficient of v_s in row t, before any normaliser."""
        return self.reads.coefficient(self.weight * self.E, self.products)

    @cached_property
    def sizes(self) -> Array:
        """The magnitude of the terms of the coefficient a."""
        return self.reads.coefficient(np.abs(self.weight) * self.E, self.product_sizes)

    # The normaliser

    @cached_property
    def n(self) -> Array:
        """The sum of a, (B, NH, t)."""
        return np.asarray(self.a.sum(-1))

    @cached_property
    def normaliser(self) -> Array:
        """The divisor N of o, (B, NH, t, 1)."""
        return self.reads.normaliser(self.n)[..., None]

    @cached_property
    def o(self) -> Array:
        """The output, (B, NH, t, V)."""
        return self.a @ self.inputs.v / self.normaliser

    @cached_property
    def own_error(self) -> Array:
        """A bound on the relative error of this module's E."""
        t, s = np.arange(self.inputs.S)[:, None], np.arange(self.inputs.S)[None, :]
        reach = -self.windows + np.abs(self.inputs.igate)[..., None, :] + 1
        reach = self.reads.exponent(reach, self.product_sizes)
        return np.asarray(U64 * (np.maximum(t - s, 0) + self.inputs.S + self.inputs.q.shape[-1] + 24) * reach)

    @cached_property
    def o_slack(self) -> Array:
        """A bound on the absolute error of this module's o."""
        sizes = np.abs(self.inputs.v)
        of_sum = (self.sizes * self.own_error) @ sizes / self.normaliser
        if not self.reads.normalised:
            return of_sum + 2.0**-1060
        of_n = (self.sizes * self.own_error).sum(-1, keepdims=True) / self.normaliser
        return np.asarray(of_sum + np.abs(self.o) * (of_n + 8 * U64) + 2.0**-1060)

    # Gradients, of the cotangent W of o, (B, NH, t, V)

    def pulled(self, W: Array) -> Pulled:
        """Return the gradients for the cotangent W."""
        return Pulled(self, W)


@dataclass(frozen=True)
class Pulled:
    """The gradients for a cotangent W, and their terms: X[t, s] is the gradient of D~[t, s]."""

    truth: Truth
    W: Array

    @cached_property
    def slope(self) -> Array:
        """d L / d a[t, s], times the normaliser: W_t . v_s, less W_t . o_t dN / dn."""
        plain = np.einsum("bhtc,bhsc->bhts", self.W, self.truth.inputs.v)
        if not self.truth.reads.normalised or self.truth.contract.gradient == "truncated":
            return np.asarray(plain)
        return np.asarray(plain - (self.along * self.truth.reads.slope(self.truth.n))[..., None])

    @cached_property
    def along(self) -> Array:
        """W_t . o_t, (B, NH, t)."""
        return np.asarray((self.W * self.truth.o).sum(-1))

    @cached_property
    def slope_sizes(self) -> Array:
        """The magnitude of the terms of the slope, including the terms that cancel under a stabiliser.

        |W_t . o_t| is one of them. FusedBounds.along_error bounds the error of W_t . o_t itself.
        """
        plain = np.einsum("bhtc,bhsc->bhts", np.abs(self.W), np.abs(self.truth.inputs.v))
        if not self.truth.reads.normalised:
            return np.asarray(plain)
        return np.asarray(plain + np.abs(self.along)[..., None])

    @cached_property
    def X(self) -> Array:
        """The gradient of D~[t, s]."""
        return self.truth.a / self.truth.normaliser * self.slope

    @cached_property
    def sizes(self) -> Array:
        """The magnitude of the terms of X."""
        return self.truth.sizes / self.truth.normaliser * self.slope_sizes

    @cached_property
    def dl(self) -> Array:
        """The gradient of the log gates, (B, NH, S)."""
        dl = rectangles(self.X)
        if self.truth.contract.weight == "dt":
            dl = dl - (self.truth.E * self.truth.products * self.slope).sum(-2)
        return dl

    @property
    def dgate(self) -> Array:
        """The gradient of the gate that the kernel takes: l or f."""
        return self.dl * self.truth.rate

    @property
    def di(self) -> Array:
        """The gradient of the input gate, (B, NH, S)."""
        return np.asarray(self.X.sum(-2))

    @cached_property
    def per_product(self) -> Array:
        """The gradient of scale q_t.k_s."""
        return self.truth.weight * self.truth.E / self.truth.normaliser * self.slope

    @property
    def per_product_sizes(self) -> Array:
        """The magnitude of the terms of per_product."""
        return np.abs(self.truth.weight) * self.truth.E / self.truth.normaliser * self.slope_sizes

    @property
    def dq(self) -> Array:
        """The gradient of q."""
        return self.truth.scale * (self.per_product @ self.truth.inputs.k)

    @property
    def dk(self) -> Array:
        """The gradient of k."""
        return self.truth.scale * (np.swapaxes(self.per_product, -1, -2) @ self.truth.inputs.q)

    @property
    def dv(self) -> Array:
        """The gradient of v."""
        return np.swapaxes(self.truth.a / self.truth.normaliser, -1, -2) @ self.W


def rectangles(X: Array) -> Array:
    """Sum over t >= k > s, into [..., k]."""
    S = X.shape[-1]
    left = np.zeros_like(X)  # [..., t, k]: sum over s < k of row t
    left[..., 1:] = np.cumsum(X[..., :-1], axis=-1)
    return np.asarray(np.where(np.tri(S, dtype=bool), left, 0.0).sum(-2))


def rows_from(X: Array) -> Array:
    """Sum over all entries of the rows t >= k, into [..., k]."""
    return np.flip(np.cumsum(np.flip(X.sum(-1), -1), -1), -1)


def columns_before(X: Array) -> Array:
    """Sum over all entries of the columns s < k, into [..., k], k = 0 .. S."""
    sums = np.zeros((*X.shape[:-2], X.shape[-1] + 1))
    sums[..., 1:] = np.cumsum(X.sum(-2), -1)
    return sums
