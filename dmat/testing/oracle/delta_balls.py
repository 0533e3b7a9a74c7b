"""The true results of a delta rule in balls of 256 bits, a head at a time, from the exact inputs."""

from __future__ import annotations

from functools import cached_property

from flint import arb

from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.oracle.gate_forms import gate_balls
from dmat.testing.oracle.reads import ZERO

Vector = list[arb]
Matrix = list[Vector]  # rows d = 0 .. K - 1 of a state


def exact(x: Array) -> Vector:
    """Return the numbers of a vector as balls."""
    return [arb(float(a)) for a in x]


def dot(x: Vector, y: Vector) -> arb:
    """Return the sum of the products."""
    return sum((a * b for a, b in zip(x, y, strict=True)), ZERO)


def read(x: Vector, state: Matrix) -> Vector:
    """Return state' x, one number a column of the state."""
    return [sum((a * row[c] for a, row in zip(x, state, strict=True)), ZERO) for c in range(len(state[0]))]


def times(state: Matrix, y: Vector) -> Vector:
    """Return state y, one number a row of the state."""
    return [dot(row, y) for row in state]


def plus_outer(state: Matrix, decay: arb, x: Vector, y: Vector) -> Matrix:
    """Return decay state + x y'."""
    return [[decay * a + b * c for a, c in zip(row, y, strict=True)] for row, b in zip(state, x, strict=True)]


class DeltaBalls:
    """One head of one call. W, W_state: the cotangents of output and last state; None for the forward."""

    def __init__(
        self,
        contract: FusedContract,
        inputs: CallInputs,
        b: int,
        h: int,
        W: Array | None = None,
        W_state: Array | None = None,
    ) -> None:
        """Take the inputs of head (b, h)."""
        assert inputs.beta is not None
        self.contract, self.S = contract, inputs.S
        K, V = inputs.q.shape[-1], inputs.v.shape[-1]
        self.raw = {"q": [exact(x) for x in inputs.q[b, h]], "k": [exact(x) for x in inputs.k[b, h]]}
        self.v, self.beta = [exact(x) for x in inputs.v[b, h]], exact(inputs.beta[b, h])
        self.by_channel = inputs.by_channel
        gates = gate_balls(contract, inputs, b, h)
        self.gates = gates if self.by_channel else [[gate] for gate in gates]  # one, or K, a time
        self.closed = inputs.closed[b, h].reshape(self.S, -1)
        logit = contract.beta_in == "logit"
        most, given = arb(contract.beta_max), self.beta
        self.beta = [most / (1 + (-x).exp()) for x in given] if logit else given
        self.beta_rate = [x * (1 - x / most) for x in self.beta] if logit else [arb(1)] * self.S
        zeros: Matrix = [[ZERO] * V for _ in range(K)]
        self.zeros = zeros
        self.first = zeros if inputs.state is None else [exact(row) for row in inputs.state[b, h]]
        self.resets = set(inputs.resets)
        self.scale = arb(contract.scale_of(K))
        self.W = None if W is None else [exact(x) for x in W]
        self.W_state = zeros if W_state is None else [exact(row) for row in W_state]

    @cached_property
    def decay(self) -> list[Vector]:
        """exp(l) at each time, for each row of the state."""
        each = [
            [ZERO if shut else gate[0].exp() for gate, shut in zip(*at, strict=True)]
            for at in zip(self.gates, self.closed, strict=True)
        ]
        return each if self.by_channel else [at * len(self.zeros) for at in each]

    def decayed(self, t: int, state: Matrix) -> Matrix:
        """Return a state with the decays of time t."""
        return [[factor * a for a in row] for factor, row in zip(self.decay[t], state, strict=True)]

    @cached_property
    def roots(self) -> dict[str, Vector]:
        """The divisors of q and k at each time."""
        eps = self.contract.l2norm
        if eps is False:
            return {name: [arb(1)] * self.S for name in "qk"}
        return {name: [(dot(x, x) + arb(float(eps))).sqrt() for x in self.raw[name]] for name in "qk"}

    @cached_property
    def divided(self) -> dict[str, list[Vector]]:
        """q and k over their divisors; a vector of zeros stays one."""
        return {
            name: [
                [a / root for a in x] if any(a != 0 for a in x) else x
                for x, root in zip(self.raw[name], self.roots[name], strict=True)
            ]
            for name in "qk"
        }

    @cached_property
    def passed(self) -> tuple[list[Vector], list[Matrix], list[Matrix], list[Vector]]:
        """The outputs, the states (S + 1 of them), the decayed states and what was written."""
        state, states, decayed, written, outputs = self.first, [self.first], [], [], []
        for t in range(self.S):
            before = self.zeros if t in self.resets else state
            D, k = self.decayed(t, before), self.divided["k"][t]
            u = [self.beta[t] * (a - b) for a, b in zip(self.v[t], read(k, D), strict=True)]
            state = plus_outer(D, arb(1), k, u)
            outputs.append([self.scale * a for a in read(self.divided["q"][t], state)])
            states.append(state)
            decayed.append(D)
            written.append(u)
        return outputs, states, decayed, written

    def o(self, t: int, c: int) -> arb:
        """Return the output at row t, column c."""
        return self.passed[0][t][c]

    def last(self, d: int, c: int) -> arb:
        """Return the last state at row d, column c."""
        return self.passed[1][-1][d][c]

    @cached_property
    def gradients(self) -> dict[str, list[Vector]]:
        """The gradients of q, k, v, l, beta (each a row a time) and of S_0 ("s", a row a channel)."""
        assert self.W is not None
        _, states, decayed, written = self.passed
        L = self.W_state
        rows: dict[str, list[Vector]] = {name: [] for name in ("q", "k", "v", "l", "b")}
        for t in reversed(range(self.S)):
            q, k, D, W, beta = self.divided["q"][t], self.divided["k"][t], decayed[t], self.W[t], self.beta[t]
            rows["q"].append([self.scale * a for a in times(states[t + 1], W)])
            L = plus_outer(L, arb(1), [self.scale * a for a in q], W)
            lam = read(k, L)
            rest = [a - b for a, b in zip(self.v[t], read(k, D), strict=True)]
            rows["v"].append([beta * a for a in lam])
            rows["b"].append([dot(lam, rest)])
            wrote, erased = times(L, written[t]), times(D, lam)
            rows["k"].append([a - beta * b for a, b in zip(wrote, erased, strict=True)])
            of_decayed = plus_outer(L, arb(1), [-beta * a for a in k], lam)
            of_log = [dot(a, b) for a, b in zip(of_decayed, D, strict=True)]
            rows["l"].append(of_log if self.by_channel else [sum(of_log, ZERO)])
            L = self.decayed(t, of_decayed)
            L = self.zeros if t in self.resets else L
        return {name: list(reversed(found)) for name, found in rows.items()} | {"s": L}

    def of_parameter(self, name: str, d: int) -> arb:
        """Return what this head adds to the gradient of A_log or A, or of dt_bias (of channel d)."""
        which, channels = (2, range(len(self.gates[0]))) if name != "dt_bias" else (1, (d,))
        terms = (self.gradients["l"][t][n] * self.gates[t][n][which] for t in range(self.S) for n in channels)
        return sum(terms, ZERO)

    def gradient(self, name: str, index: tuple[int, ...]) -> arb:
        """Return the entry of the gradient of an input."""
        t, d = index[0], index[-1] if len(index) > 1 else 0
        if name == "g":
            found: arb = self.gradients["l"][t][d] * self.gates[t][d][1]
            return found
        if name == "b":
            return self.gradients["b"][t][0] * self.beta_rate[t]
        row = self.gradients[name][t]
        if name in ("q", "k") and self.contract.l2norm is not False:
            unit, root = self.divided[name][t], self.roots[name][t]
            return (row[d] - unit[d] * dot(unit, row)) / root
        return row[d]
