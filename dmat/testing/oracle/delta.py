"""The true results of a delta rule, in float64: its recurrence and its adjoint (docs/fused.md section 5).

D_t = exp(l_t) S_(t-1), u_t = beta_t (v_t - D_t' k_t), S_t = D_t + k_t u_t', o_t = scale S_t' q_t. Every array
is (B, NH, ...), a state (B, NH, K, V). This module only filters: the balls of delta_balls.py confirm an entry
before a finding accuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused import Gated


def swapped(x: Array) -> Array:
    """Return the transpose of the last two axes."""
    return x.swapaxes(-1, -2)


def column(x: Array) -> Array:
    """Return a vector as a matrix of one column."""
    return x[..., :, None]


@dataclass(frozen=True)
class Passed:
    """The forward pass. o: (B, NH, S, V). states: before time 0 and after each time, (B, NH, S + 1, K, V).

    decayed: D_t, (B, NH, S, K, V). written: u_t, (B, NH, S, V).
    """

    o: Array
    states: Array
    decayed: Array
    written: Array


@dataclass(frozen=True)
class DeltaTruth(Gated):
    """The true values of one call of a delta rule."""

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return self.inputs.S

    @cached_property
    def beta(self) -> Array:
        """beta, (B, NH, S)."""
        assert self.inputs.beta is not None
        if self.contract.beta_in == "value":
            return self.inputs.beta
        with np.errstate(over="ignore"):
            return np.asarray(self.contract.beta_max / (1 + np.exp(-self.inputs.beta)))

    @cached_property
    def beta_rate(self) -> Array:
        """d beta / d(the input of the kernel), (B, NH, S): 1, or that of a sigmoid."""
        if self.contract.beta_in == "value":
            return np.ones_like(self.beta)
        decay = np.exp(-np.abs(cast(Array, self.inputs.beta)))
        return np.asarray(self.contract.beta_max * decay / (1 + decay) ** 2)

    @cached_property
    def decay(self) -> Array:
        """exp(l), (B, NH, S), or (B, NH, S, K) by channel; 0 at a gate of -inf."""
        with np.errstate(under="ignore"):
            return np.where(self.inputs.closed, 0.0, np.exp(self.log))

    @property
    def factors(self) -> Array:
        """The decays as factors of states, (B, NH, S, 1, 1), or (B, NH, S, K, 1) by channel."""
        return self.decay[..., None] if self.decay.ndim == 4 else self.decay[..., None, None]

    @cached_property
    def first(self) -> Array:
        """S_0, (B, NH, K, V)."""
        (B, NH, _, K), V = self.inputs.q.shape, self.inputs.v.shape[-1]
        return np.zeros((B, NH, K, V)) if self.inputs.state is None else self.inputs.state

    @property
    def resets(self) -> frozenset[int]:
        """The times before which a packed sequence ends, so that the state is 0."""
        return frozenset(self.inputs.resets)

    # Keys and queries, divided by their norms if the kernel does so

    def root(self, x: Array) -> Array:
        """Return the divisor of k or q, (B, NH, S, 1): 1, or sqrt(|x|^2 + eps)."""
        eps = self.contract.l2norm
        if eps is False:
            return np.ones((*x.shape[:-1], 1))
        return np.asarray(np.sqrt((x * x).sum(-1, keepdims=True) + eps))

    def divided(self, x: Array) -> Array:
        """Return k or q over its divisor; 0 where that is 0."""
        root = self.root(x)
        return np.asarray(np.divide(x, root, out=np.zeros_like(x), where=root != 0))

    @cached_property
    def q(self) -> Array:
        """The queries, divided."""
        return self.divided(self.inputs.q)

    @cached_property
    def k(self) -> Array:
        """The keys, divided."""
        return self.divided(self.inputs.k)

    # The recurrence

    @cached_property
    def passed(self) -> Passed:
        """The forward pass."""
        v, S, resets = self.inputs.v, self.S, self.resets
        states, decayed = [self.first], []
        written = np.zeros_like(v)
        rows, columns, beta = self.k[..., None, :], self.k[..., None], self.beta[..., None, None]
        values, decay = v[..., None, :], self.factors
        for t in range(S):
            before = np.zeros_like(self.first) if t in resets else states[-1]
            D = decay[:, :, t] * before
            u = beta[:, :, t] * (values[:, :, t] - rows[:, :, t] @ D)
            written[:, :, t] = u[..., 0, :]
            states.append(D + columns[:, :, t] * u)
            decayed.append(D)
        o = np.zeros_like(v)
        if S:
            o = self.scale * (self.q[..., None, :] @ np.stack(states[1:], 2))[..., 0, :]
        stacked = np.stack(decayed, 2) if decayed else np.zeros((*v.shape[:2], 0, *self.first.shape[2:]))
        return Passed(o, np.stack(states, 2), stacked, written)

    @property
    def o(self) -> Array:
        """The output, (B, NH, S, V)."""
        return self.passed.o

    @property
    def last(self) -> Array:
        """The last state, (B, NH, K, V)."""
        return self.passed.states[:, :, -1]


@dataclass(frozen=True)
class DeltaPulled:
    """The gradients for a cotangent W of o, (B, NH, S, V), and W_state of the last state, (B, NH, K, V)."""

    truth: DeltaTruth
    W: Array
    W_state: Array

    @cached_property
    def adjoint(self) -> dict[str, Array]:
        """The gradients by role; "after": those of the states after each time, (B, NH, S, K, V).

        "q" and "k" are those of the divided ones. "lambda": S_t's gradient read with k_t, (B, NH, S, V).
        "l": the gradient of the log gate.
        """
        truth, passed = self.truth, self.truth.passed
        v, beta = truth.inputs.v, truth.beta
        d = {"q": np.zeros_like(truth.q), "k": np.zeros_like(truth.k), "v": np.zeros_like(v)}
        d |= {"l": np.zeros_like(truth.log), "b": np.zeros_like(beta), "lambda": np.zeros_like(v)}
        after, before, L = np.zeros_like(passed.decayed), np.zeros_like(passed.decayed), self.W_state
        rows, columns, resets = truth.k[..., None, :], truth.k[..., None], truth.resets
        read = truth.scale * column(truth.q) * self.W[..., None, :]
        erase, decay = beta[..., None, None] * columns, truth.factors
        for t in reversed(range(truth.S)):
            L = L + read[:, :, t]
            after[:, :, t] = L
            lam = rows[:, :, t] @ L
            d["lambda"][:, :, t] = lam[..., 0, :]
            before[:, :, t] = of_decayed = L - erase[:, :, t] * lam
            L = np.zeros_like(L) if t in resets else decay[:, :, t] * of_decayed
        if truth.S:
            D, lam = passed.decayed, d["lambda"]
            d["q"] = truth.scale * (passed.states[:, :, 1:] @ column(self.W))[..., 0]
            d["v"] = beta[..., None] * lam
            d["b"] = (lam * (v - (rows @ D)[..., 0, :])).sum(-1)
            erased = beta[..., None] * (D @ column(lam))[..., 0]
            d["k"] = (after @ column(passed.written))[..., 0] - erased
            d["l"] = (before * D).sum(-1 if truth.inputs.by_channel else (-1, -2))
        return {**d, "s": L, "after": after}

    def through_norm(self, x: Array, divided: Array, d: Array) -> Array:
        """Return the gradient of k or q from that of x / root(x)."""
        if self.truth.contract.l2norm is False:
            return d
        root = self.truth.root(x)
        along = d - divided * (divided * d).sum(-1, keepdims=True)
        return np.asarray(np.divide(along, root, out=np.zeros_like(x), where=root != 0))

    @cached_property
    def of_keys(self) -> dict[str, Array]:
        """The gradients of what each value head reads as q and k, (B, NH, S, K)."""
        truth, d = self.truth, self.adjoint
        each = {"q": (truth.inputs.q, truth.q, d["q"]), "k": (truth.inputs.k, truth.k, d["k"])}
        return {name: self.through_norm(*x) for name, x in each.items()}

    @cached_property
    def gradients(self) -> dict[str, Array]:
        """The gradients of the inputs by name: those of q and k summed over the value heads of a key head."""
        truth, d = self.truth, self.adjoint
        q, k = (truth.inputs.heads.gathered(self.of_keys[name]) for name in "qk")
        own = {
            "q": q,
            "k": k,
            "v": d["v"],
            "g": d["l"] * truth.rate,
            "b": d["b"] * truth.beta_rate,
            "s": d["s"],
        }
        return {**own, **truth.of_parameters(d["l"])}
