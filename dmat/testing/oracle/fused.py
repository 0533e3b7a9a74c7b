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
from dmat.testing.oracle.after import After
from dmat.testing.oracle.arithmetic import Array, Mask, single
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.oracle.gate_forms import GateValues, form_of
from dmat.testing.oracle.gates import window_sums
from dmat.testing.oracle.reads import SUMS, Sums

U64 = 2.0**-53


@dataclass(frozen=True)
class Gated:
    """The gates of one call."""

    contract: FusedContract
    inputs: CallInputs

    @cached_property
    def gates(self) -> GateValues:
        """The functions of each gate, in the shape of fgate; an infinite or NaN gate counts as 0."""
        inputs, lowest = self.inputs, self.contract.lower_bound or 0.0
        x = np.where(np.isfinite(inputs.fgate), inputs.fgate, 0.0)
        return form_of(self.contract).values(x, np.asarray(inputs.A_log), np.asarray(inputs.dt_bias), lowest)

    @cached_property
    def log(self) -> Array:
        """The log gates l. A closed gate counts as 0 here: `unread` masks what it closes."""
        return np.where(np.isfinite(self.inputs.fgate), self.gates.log, 0.0)

    @property
    def rate(self) -> Array:
        """dl / d gate."""
        return self.gates.rate

    @property
    def condition(self) -> Array:
        """How far rounding of a gate and its parameters moves l, over u_a."""
        return self.gates.log_condition

    @property
    def undefined(self) -> Mask:
        """The gates whose own gradient cannot be told from that of l: decays of 0."""
        return self.inputs.closed & (self.contract.gate == "decay")

    def of_parameters(self, dl: Array, dx: Array | None = None) -> dict[str, Array]:
        """Return the gradients of the parameters of gates, as CallInputs.of_parameter sums them.

        dl: the gradient of l. dx: that of the gate itself; None where it is dl times dl / dx.
        """
        of_A, of_bias = dl * self.gates.of_A, dl * self.gates.rate if dx is None else dx
        each = {"A_log": of_A, "A": of_A, "dt_bias": of_bias}
        return {name: self.inputs.of_parameter(name, each[name]) for name in self.contract.of_gates}

    @cached_property
    def scale(self) -> float:
        """The factor of q.k."""
        return self.contract.scale_of(self.inputs.K)


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
        own, known = self.gates.weight, np.isfinite(self.inputs.fgate)
        weighted = self.contract.weight == "dt" and own is not None
        weight = np.where(known, own.weight, 0.0) if weighted and own else np.ones_like(self.log)
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
        """The sum of a, (B, NH, t), and eps where the operator adds it."""
        return np.asarray(self.a.sum(-1) + (self.contract.eps if self.reads.adds_eps else 0.0))

    @cached_property
    def normaliser(self) -> Array:
        """The divisor N of o, (B, NH, t, 1)."""
        return self.reads.normaliser(self.n)[..., None]

    @cached_property
    def o(self) -> Array:
        """The output, (B, NH, t, V): of gates by channel the sum over the channels."""
        return self.after.output(self.sums)

    @cached_property
    def sums(self) -> Array:
        """The output before the skip and the gate z, (B, NH, t, V)."""
        return self.inputs.heads.total(self.a @ self.inputs.v / self.normaliser)

    @property
    def after(self) -> After:
        """What is done to the sums: the skip D v, and the gate z."""
        return After(self.inputs)

    @cached_property
    def own_error(self) -> Array:
        """A bound on the relative error of this module's E."""
        t, s = np.arange(self.inputs.S)[:, None], np.arange(self.inputs.S)[None, :]
        reach = -self.windows + np.abs(self.inputs.igate)[..., None, :] + 1
        reach = self.reads.exponent(reach, self.product_sizes)
        return np.asarray(U64 * (np.maximum(t - s, 0) + self.inputs.S + self.inputs.K + 24) * reach)

    @cached_property
    def o_slack(self) -> Array:
        """A bound on the absolute error of this module's o."""
        sizes = np.abs(self.inputs.v)
        of_sum = (self.sizes * self.own_error) @ sizes / self.normaliser
        if not self.reads.normalised:
            return self.after.slack(self.inputs.heads.total(of_sum)) + 2.0**-1060
        of_n = (self.sizes * self.own_error).sum(-1, keepdims=True) / self.normaliser
        return np.asarray(of_sum + np.abs(self.o) * (of_n + 8 * U64) + 2.0**-1060)

    # Gradients, of the cotangent W of o, (B, NH, t, V)

    def pulled(self, W: Array) -> Pulled:
        """Return the gradients for the cotangent W."""
        return Pulled(self, W)


@dataclass(frozen=True)
class Pulled:
    """The gradients for a cotangent W of o, and their terms: X[t, s] is the gradient of D~[t, s]."""

    truth: Truth
    W: Array

    @cached_property
    def W_each(self) -> Array:
        """The cotangent of the sums of each head of the oracle, (B, NH, t, V), the same for all channels."""
        return self.truth.inputs.heads.each(self.inner)

    @cached_property
    def inner(self) -> Array:
        """The cotangent of the sums: W, or W silu(z)."""
        return self.truth.after.pulled(self.W)

    @cached_property
    def slope(self) -> Array:
        """d L / d a[t, s], times the normaliser: W_t . v_s, less W_t . o_t dN / dn."""
        plain = np.einsum("bhtc,bhsc->bhts", self.W_each, self.truth.inputs.v)
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
        plain = np.einsum("bhtc,bhsc->bhts", np.abs(self.W_each), np.abs(self.truth.inputs.v))
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
        """The gradient of the log gates, (B, NH, S), without that of the weight w."""
        return rectangles(self.X)

    @cached_property
    def dx(self) -> Array:
        """The gradient of the gate that the kernel takes, in the shape of dl."""
        own = self.truth.gates.weight
        if self.truth.contract.weight != "dt" or own is None:
            return self.dl * self.truth.rate
        return np.asarray(self.dl * self.truth.rate + own.rate * self.of_weight)

    @cached_property
    def of_weight(self) -> Array:
        """The gradient of the weight w, in the shape of dl."""
        return np.asarray((self.truth.E * self.truth.products * self.slope).sum(-2))

    @property
    def dgate(self) -> Array:
        """The gradient of the gate that the kernel takes: l or f, (B, NH, S), or (B, NH, S, K) by channel."""
        return self.truth.inputs.heads.joined(self.dx)

    @property
    def parameters(self) -> dict[str, Array]:
        """The gradients of the tensors without times, by name: the parameters of the gates, and D."""
        own = self.truth.of_parameters(self.dl, self.dx)
        return own | ({} if self.truth.inputs.D is None else {"D": self.truth.after.of_D(self.inner)})

    @property
    def di(self) -> Array:
        """The gradient of the input gate, (B, NH, S)."""
        return self.truth.inputs.heads.total(self.di_each)

    @cached_property
    def di_each(self) -> Array:
        """The gradient of the input gate of each head of the oracle."""
        return np.asarray(self.X.sum(-2))

    @cached_property
    def per_product(self) -> Array:
        """The gradient of scale q_t.k_s."""
        return self.truth.weight * self.truth.E / self.truth.normaliser * self.slope

    @property
    def per_product_sizes(self) -> Array:
        """The magnitude of the terms of per_product."""
        return np.abs(self.truth.weight) * self.truth.E / self.truth.normaliser * self.slope_sizes

    @cached_property
    def dq_each(self) -> Array:
        """The gradient of what each value head reads as q, (B, NH, S, K)."""
        return self.truth.inputs.heads.joined(self.truth.scale * (self.per_product @ self.truth.inputs.k))

    @cached_property
    def dk_each(self) -> Array:
        """The gradient of what each value head reads as k, (B, NH, S, K)."""
        transposed = np.swapaxes(self.per_product, -1, -2)
        return self.truth.inputs.heads.joined(self.truth.scale * (transposed @ self.truth.inputs.q))

    @property
    def dq(self) -> Array:
        """The gradient of q."""
        return self.truth.inputs.heads.gathered(self.dq_each)

    @property
    def dk(self) -> Array:
        """The gradient of k."""
        return self.truth.inputs.heads.gathered(self.dk_each)

    @property
    def dv(self) -> Array:
        """The gradient of v."""
        return self.truth.inputs.heads.total(self.dv_each) + self.truth.after.skip * self.inner

    @cached_property
    def dv_each(self) -> Array:
        """The gradient of what each head of the oracle reads as v, without that of the skip."""
        return np.asarray(np.swapaxes(self.truth.a / self.truth.normaliser, -1, -2) @ self.W_each)

    @property
    def dz(self) -> Array:
        """The gradient of z, (B, NH, S, V): W y silu'(z), y the output before the gate."""
        return self.truth.after.of_z(self.W, self.truth.sums)


def rectangles(X: Array) -> Array:
    """Sum over t >= k > s, into [..., k]. The rows of X are the last times, all of them if X is square."""
    T, S = X.shape[-2:]
    left = np.zeros_like(X)  # [..., t, k]: sum over s < k of row t
    left[..., 1:] = np.cumsum(X[..., :-1], axis=-1)
    return np.asarray(np.where(np.tri(T, S, S - T, dtype=bool), left, 0.0).sum(-2))


def rows_from(X: Array) -> Array:
    """Sum over all entries of the rows t >= k, into [..., k]."""
    return np.flip(np.cumsum(np.flip(X.sum(-1), -1), -1), -1)


def columns_before(X: Array) -> Array:
    """Sum over all entries of the columns s < k, into [..., k], k = 0 .. S."""
    sums = np.zeros((*X.shape[:-2], X.shape[-1] + 1))
    sums[..., 1:] = np.cumsum(X.sum(-2), -1)
    return sums
