"""The true results of a fused kernel in balls of 256 bits, entry by entry, from the exact inputs."""

from __future__ import annotations

from functools import cache, cached_property, reduce
from itertools import product
from typing import Any

import numpy as np
from flint import arb

from dmat.testing.contract import FusedContract
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.oracle.after import AfterBalls
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.oracle.gate_forms import gate_balls, weight_balls
from dmat.testing.oracle.reads import ONE, SUMS, ZERO


class HeadBalls:
    """One head of one call. W: the cotangent of the output, (S, V); None for the forward alone."""

    def __init__(
        self, contract: FusedContract, inputs: CallInputs, b: int, h: int, W: Array | None = None
    ) -> None:
        """Take the inputs of head (b, h)."""
        self.contract, self.place, self.W = contract, (b, h), W
        self.reads = SUMS[contract.reads]
        self.q, self.k, self.v = (x[b, h] for x in (inputs.q, inputs.k, inputs.v))
        self.igate = inputs.igate[b, h]
        self.unread = inputs.unread[b, h] if inputs.unread.ndim == 4 else inputs.unread
        self.scale = arb(contract.scale_of(inputs.K))
        self.gates = gate_balls(contract, inputs, b, h)
        self.S = len(self.gates)
        self._inputs = inputs

    @property
    def log(self) -> list[arb]:
        """l at each time. A closed gate counts as 0 here: `unread` masks what it closes."""
        return [gate[0] for gate in self.gates]

    @cached_property
    def weights(self) -> list[tuple[arb, arb]]:
        """The weight w of each source, and dw / dx: 1 and 0 where sources are not weighted."""
        if self.contract.weight != "dt":
            return [(ONE, ZERO)] * self.S
        every = np.broadcast_to(self._inputs.dt_bias, self._inputs.fgate.shape)[self.place]
        gates = zip(self._inputs.fgate[self.place], every, self.log, strict=True)
        return [weight_balls(self.contract, float(x), float(p), log) for x, p, log in gates]

    @cached_property
    def rows(self) -> dict[int, list[arb]]:
        """The cache of `row`: w E of each row computed so far."""
        return {}

    @cached_property
    def products(self) -> dict[tuple[int, int], arb]:
        """The cache of `product`: scale (q_t . k_s) of each (t, s) computed so far."""
        return {}

    def row(self, t: int) -> list[arb]:
        """Return w[s] E[t, s] for s <= t. In a softmax E contains e^(scale q.k)."""
        if t not in self.rows:
            window, row = ZERO, [ZERO] * (t + 1)
            for s in range(t, -1, -1):
                if not self.unread[t, s]:
                    exponent = self.reads.exponent(window + arb(float(self.igate[s])), self.product(t, s))
                    row[s] = exponent.exp() * self.weights[s][0]
                window += self.log[s]
            self.rows[t] = row
        return self.rows[t]

    def product(self, t: int, s: int) -> arb:
        """Return scale (q_t . k_s)."""
        if (t, s) not in self.products:
            self.products[t, s] = self.scale * _dot(self.q[t], self.k[s])
        return self.products[t, s]

    def a(self, t: int, s: int) -> arb:
        """Return the coefficient of v_s in row t, before any normaliser."""
        return self.reads.coefficient(self.row(t)[s], self.product(t, s))

    def n(self, t: int) -> arb:
        """Return the sum of a in row t, and eps where the operator adds it."""
        eps = arb(self.contract.eps) if self.reads.adds_eps else ZERO
        return sum((self.a(t, s) for s in range(t + 1)), eps)

    def normaliser(self, t: int) -> arb:
        """Return the normaliser of row t."""
        return self.reads.normaliser_ball(self.n(t)) if self.reads.normalised else ONE

    def o(self, t: int, c: int) -> arb:
        """Return the output at row t, column c."""
        terms = (self.a(t, s) * arb(float(self.v[s, c])) for s in range(t + 1) if self.v[s, c] != 0)
        return sum(terms, ZERO) / self.normaliser(t)

    # Gradients

    def slope(self, t: int) -> list[arb]:
        """Return dL / d a[t, s] times the normaliser, for s <= t."""
        assert self.W is not None
        plain = [_dot(self.W[t], self.v[s]) for s in range(t + 1)]
        if not self.reads.normalised or self.contract.gradient == "truncated":
            return plain
        slopes = self.reads.slopes(self.n(t))
        if slopes == (ZERO,):
            return plain
        columns = [c for c in range(self.W.shape[-1]) if self.W[t, c] != 0]
        along = sum((_ball(self.W[t, c]) * self.o(t, c) for c in columns), ZERO)
        of_normaliser = reduce(arb.union, (slope * along for slope in slopes))
        return [x - of_normaliser for x in plain]

    def X(self, t: int) -> list[arb]:
        """Return the gradient of D~[t, s], for s <= t."""
        den = self.normaliser(t)
        return [self.a(t, s) * slope / den for s, slope in enumerate(self.slope(t))]

    def dgate(self, k: int) -> arb:
        """Return the gradient of the gate at k, in the form of the contract."""
        found: arb = self.dl(k) * self.gates[k][1]
        if self.contract.weight != "dt":
            return found
        of_weight = sum((self._unweighted(t, k) for t in range(k, self.S)), ZERO)
        return found + of_weight * self.weights[k][1]

    @cached_property
    def log_gradients(self) -> dict[int, arb]:
        """The cache of `dl`: the gradient of each log gate computed so far."""
        return {}

    def dl(self, k: int) -> arb:
        """Return the gradient of the log gate at k, without that of the weight."""
        if k not in self.log_gradients:
            dl = ZERO
            for t in range(k, self.S):
                if k > 0:
                    dl += sum(self.X(t)[:k], ZERO)
            self.log_gradients[k] = dl
        return self.log_gradients[k]

    def _unweighted(self, t: int, s: int) -> arb:
        """Return E[t, s] scale (q_t.k_s) times its slope."""
        if self.unread[t, s]:
            return ZERO
        window = sum(self.log[s + 1 : t + 1], ZERO) + arb(float(self.igate[s]))
        return window.exp() * self.product(t, s) * self.slope(t)[s]

    def di(self, s: int) -> arb:
        """Return the gradient of the input gate at s."""
        return sum((self.X(t)[s] for t in range(s, self.S)), ZERO)

    def dq(self, t: int, d: int) -> arb:
        """Return the gradient of q at t, d."""
        slope, den = self.slope(t), self.normaliser(t)
        row = self.row(t)
        terms = (row[s] * slope[s] * arb(float(self.k[s, d])) for s in range(t + 1) if self.k[s, d] != 0)
        return self.scale * sum(terms, ZERO) / den

    def dk(self, s: int, d: int) -> arb:
        """Return the gradient of k at s, d."""
        terms = (
            self.row(t)[s] * self.slope(t)[s] / self.normaliser(t) * arb(float(self.q[t, d]))
            for t in range(s, self.S)
            if self.q[t, d] != 0
        )
        return self.scale * sum(terms, ZERO)

    def dv(self, s: int, c: int) -> arb:
        """Return the gradient of v at s, c."""
        assert self.W is not None
        terms = (
            self.a(t, s) / self.normaliser(t) * _ball(self.W[t, c])
            for t in range(s, self.S)
            if self.W[t, c] != 0
        )
        return sum(terms, ZERO)


class CallBalls:
    """The heads of one call, made when they are first asked for. W: as in Pulled, or None.

    An index is that of a result of the kernel: what is a sum over channels, or over the value heads of a key
    head, is summed here.
    """

    def __init__(self, contract: FusedContract, inputs: CallInputs, W: Array | None = None) -> None:
        """Take the inputs of the call."""
        self.form, self._after, self._W = inputs.heads, AfterBalls(inputs), W
        self._key_heads = inputs.q.shape[1] // self.form.parts // self.form.group
        self._batches = inputs.q.shape[0]

        @cache
        def head(b: int, n: int) -> HeadBalls:
            rows = None if W is None else self._after.pulled(W, b, n // self.form.parts)
            return HeadBalls(contract, inputs, b, n, rows)

        self.head = head

    def _channels(self, b: int, h: int) -> list[HeadBalls]:
        """Return the heads of the oracle that make value head h."""
        return [self.head(b, h * self.form.parts + d) for d in range(self.form.parts)]

    def o(self, index: tuple[int, ...]) -> arb:
        """Return the output at (b, h, t, c)."""
        return self._before(index) * self._after.silu(*index)

    def _before(self, index: tuple[int, ...]) -> arb:
        """Return the output before the gate z at (b, h, t, c)."""
        b, h, t, c = index
        return self._after.before(index, sum((head.o(t, c) for head in self._channels(b, h)), ZERO))

    def gradient(self, name: str, index: tuple[int, ...]) -> arb:
        """Return the entry of the gradient of an input, by its name in NAMES."""
        b, h, *place = index
        if name in ("q", "k"):
            members = self.form.members(h, self._key_heads)
            return sum((self._of_channel(name, b, member, place) for member in members), ZERO)
        if name == "g":
            return self._of_channel(name, b, h, place)
        if name in PARAMETERS:
            return self._of_parameter(name, h, place[0])
        if name == "z":
            assert self._W is not None
            return arb(float(self._W[index])) * self._before(index) * self._after.slope(*index)
        heads = self._channels(b, h)
        if name == "i":
            return sum((head.di(place[0]) for head in heads), ZERO)
        found = sum((head.dv(place[0], place[1]) for head in heads), ZERO)
        return (
            found
            if self._after.inputs.D is None
            else found + self._after.D(h, place[1]) * self._inner(*index)
        )

    def _inner(self, *index: int) -> arb:
        """Return the cotangent of the sums at (b, h, t, c)."""
        assert self._W is not None
        return arb(float(self._W[index])) * self._after.silu(*index)

    def _of_D(self, h: int, c: int) -> arb:
        """Return the gradient of D of head h, and of column c if each has its own."""
        D = self._after.inputs.D
        assert D is not None
        assert self._W is not None
        S, V = self._W.shape[2:]
        columns = range(V) if D.shape[-1] == 1 else (c,)
        places = product(range(self._batches), range(S), columns)
        return sum((self._inner(b, h, t, n) * self._after.v(b, h, t, n) for b, t, n in places), ZERO)

    def _of_parameter(self, name: str, h: int, d: int) -> arb:
        """Return the gradient of a parameter of value head h: sums over batches and times.

        A_log or A has one number a head, dt_bias one a channel, d, if gates differ by channel.
        """
        if name == "D":
            return self._of_D(h, d)
        parts = (d,) if name == "dt_bias" else range(self.form.parts)
        found = ZERO
        for b, part in product(range(self._batches), parts):
            head = self.head(b, h * self.form.parts + part)
            of_A = (head.dl(t) * head.gates[t][2] for t in range(head.S))
            found += sum(map(head.dgate, range(head.S)) if name == "dt_bias" else of_A, ZERO)
        return found

    def _of_channel(self, name: str, b: int, h: int, place: list[int]) -> arb:
        """Return the gradient of a gate, of q or of k, which is that of one channel alone."""
        heads, by_channel = self._channels(b, h), self.form.channels is not None
        head = heads[place[-1]] if by_channel else heads[0]
        if name == "g":
            return head.dgate(place[0])
        entry = {"q": HeadBalls.dq, "k": HeadBalls.dk}[name]
        return entry(head, place[0], 0 if by_channel else place[1])


def _dot(x: Array, y: Array) -> arb:
    return sum((_ball(a) * _ball(b) for a, b in zip(x, y, strict=True) if a != 0 and b != 0), ZERO)


def _ball(x: Any) -> arb:
    return x if isinstance(x, arb) else arb(float(x))
