"""The forms of gates that a fused kernel takes, one class each: how they give l (docs/fused.md section 1).

A class has l, its derivatives and its conditions in float64, and l and its derivatives in balls. A new form
is one more class in GATE_FORMS, and one more name in GATES of dmat.testing.contract.names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import Array, Mask, log_sigmoid, sigmoid_minus
from dmat.testing.oracle.gates import GateTerms

OF_EXP = (
    4  # roundings of exp(A_log) and of the product with it, and exp's argument 2^(x log2 e) for each |A_log|
)


@dataclass(frozen=True)
class WeightValues:
    """What a source may be weighted by, as functions of each gate x.

    weight: w. rate: dw / dx. condition: how far rounding moves w, in u_a before the factor CONDITION_ULPS.
    rate_condition: the same for dw / dx, relative.
    """

    weight: Array
    rate: Array
    condition: Array | float
    rate_condition: Array | float


@dataclass(frozen=True)
class LimitValues:
    """Where a step dt meets its limit, and its derivative jumps: a kernel may use that of either side there.

    size: -dl / dd. jump: dd / dx inside the limit, which is 0 outside. margin: how far dt is from the nearer
    end. moved: how far rounding moves dt, in u_a before the factor CONDITION_ULPS.
    """

    size: Array
    jump: Array
    margin: Array
    moved: Array


@dataclass(frozen=True)
class GateValues:
    """Functions of each gate x, in its shape. Conditions are in u_a, before the factor CONDITION_ULPS.

    log: l. rate: dl / dx. of_A: dl / dA_log. log_condition: how far rounding of x, A_log and their functions
    moves l, beyond the rounding of l itself. rate_condition: the same for dl / dx, relative.
    of_A_condition: the same for dl / dA_log, absolute. rate_error: absolute, of dl / dx where that has the
    factor 1 - sigmoid, which autograd takes of a rounded sigmoid. weight, edge: of forms that have them.
    """

    log: Array
    rate: Array
    log_condition: Array
    rate_condition: Array
    of_A: Array
    of_A_condition: Array
    rate_error: Array | float = 0.0
    weight: WeightValues | None = None
    edge: LimitValues | None = None


class GateForm(ABC):
    """A form of gates."""

    def closed(self, x: Array) -> Mask:
        """Return where a gate is closed for good: l = -inf."""
        return np.asarray(x == -np.inf)

    @abstractmethod
    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """Return the functions of finite gates. A, bias: A_log, dt_bias. lowest: of the contract."""

    @abstractmethod
    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """Return l, dl / dx and dl / dA_log of a finite gate."""


class Log(GateForm):
    """x is l."""

    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = x."""
        zero = np.zeros_like(x)
        weight = WeightValues(-x, zero - 1, 0.0, 0.0)
        return GateValues(x, np.ones_like(x), zero, zero, zero, zero, weight=weight)

    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = x."""
        return arb(x), arb(1), arb(0)


class Decay(GateForm):
    """x is exp(l), in (0, 1]. A product of decays rounds at each factor: the condition is 1."""

    def closed(self, x: Array) -> Mask:
        """A decay of 0 is closed for good."""
        return np.asarray(x == 0)

    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = log x."""
        x, one = np.where(x > 0, x, 1.0), np.ones_like(x)
        zero = 0 * one
        return GateValues(np.log(x), 1 / x, one, zero, zero, zero)

    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = log x."""
        return arb(x).log(), 1 / arb(x), arb(0)


class Preact(GateForm):
    """x is f, and l = log sigmoid(f)."""

    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = log sigmoid(x)."""
        terms = GateTerms.of(x, wide=False)
        conditions, zero = (terms.log_condition, terms.rate_condition), np.zeros_like(x)
        return GateValues(terms.log.hi, terms.rate.hi, *conditions, zero, zero)

    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = log sigmoid(x)."""
        return log_sigmoid(x), sigmoid_minus(x), arb(0)


def _rounded(end: float) -> float:
    """Return the end of a limit, whose rounding moves it; 0 if it has at most 8 bits: no format rounds it."""
    return 0.0 if np.isinf(end) or (np.frexp(end)[0] * 256).is_integer() else end


@dataclass(frozen=True)
class Step(GateForm):
    """x is dt, and l = -exp(A_log) d, or A d; d = softplus(dt + dt_bias), clamped to the limit.

    y = dt + dt_bias is rounded once: softplus(y) moves by sigmoid(y) |y| u_a. softplus: False where d is y.
    limit: (lowest, highest) of d, or None. direct: whether the parameter A is A itself, not A_log.
    """

    softplus: bool = True
    limit: tuple[float, float] | None = None
    direct: bool = False

    def closed(self, x: Array) -> Mask:
        """No finite step closes a gate for good."""
        return np.zeros(x.shape, dtype=bool)

    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = -exp(A) d, or A d."""
        y = x + bias
        terms, of_size = GateTerms.of(-y, wide=False), OF_EXP + (0 if self.direct else np.abs(A))
        size = (-A if self.direct else np.exp(A)) + 0 * x  # log sigmoid(-y) = -softplus(y)
        d, slope, condition = -terms.log.hi, terms.rate.hi, terms.log_condition
        relative = terms.rate_condition
        if not self.softplus:
            d, slope, condition, relative = y, np.ones_like(y), np.abs(y) * (bias != 0), np.zeros_like(y)
        jump, margin, moved = np.zeros_like(y), np.full_like(y, np.inf), condition + np.abs(d)
        if self.limit is not None:
            low, high = self.limit
            jump, margin = slope, np.minimum(np.abs(d - low), np.abs(d - high))
            nearer = np.where(np.abs(d - low) <= np.abs(d - high), _rounded(low), _rounded(high))
            moved = moved if self.softplus else condition + nearer
            inside, d = (d >= low) & (d <= high), np.clip(d, low, high)
            slope, condition = np.where(inside, slope, 0.0), condition + d
        log, rate = -size * d, -size * slope
        log_condition = size * condition + np.abs(log) * of_size
        of_A, of_A_condition = (d, condition) if self.direct else (log, log_condition)
        values = log, rate, log_condition, relative + of_size, of_A, of_A_condition
        weight = WeightValues(d, slope, condition, relative)
        return GateValues(*values, weight=weight, edge=LimitValues(size, jump, margin, moved))

    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = -exp(A) d, or A d."""
        d, slope = self.step_balls(x, bias)
        size = -arb(A) if self.direct else arb(A).exp()
        return -size * d, -size * slope, d if self.direct else -size * d

    def step_balls(self, x: float, bias: float) -> tuple[arb, arb]:
        """Return d, and dd / dx. At an end of the limit the derivative is that from inside."""
        y = arb(x) + arb(bias)
        d, slope = y, arb(1)
        if self.softplus:
            d = y + (-y).exp().log1p() if y > 0 else y.exp().log1p()
            slope = 1 / (1 + (-y).exp())
        low, high = self.limit or (-np.inf, np.inf)
        if d < low or d > high:
            return arb(low if d < low else high), arb(0)
        return d, slope


class Bounded(GateForm):
    """x is dt, and l = lower_bound sigmoid(exp(A_log) (dt + dt_bias)).

    z = exp(A_log) (dt + dt_bias) is rounded, relative, as a sum, an exponential and their product.
    """

    def closed(self, x: Array) -> Mask:
        """No step closes a gate for good."""
        return np.zeros(x.shape, dtype=bool)

    def values(self, x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = lowest sigmoid(exp(A) (x + bias))."""
        size, moved = np.exp(A), OF_EXP + np.abs(A) + 0 * x
        z = size * (x + bias)
        decay = np.exp(-np.abs(z))
        large, small = 1 / (1 + decay), decay / (1 + decay)
        s, slope = np.where(z > 0, large, small), large * small  # sigmoid(z), and its derivative
        condition = -lowest * (slope * np.abs(z) * moved + OF_EXP * s)
        relative = moved * (1 + np.abs(z) * np.abs(1 - 2 * s)) + OF_EXP
        of_A = lowest * slope * z
        rounded = -2 * lowest * s  # times 1 - s, of a rounded s
        of_A_condition = np.abs(of_A) * (relative + moved) + rounded * np.abs(z)
        values = lowest * s, lowest * slope * size, condition, relative, of_A, of_A_condition
        return GateValues(*values, rounded * size)

    def balls(self, x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = lowest sigmoid(exp(A) (x + bias))."""
        size = arb(A).exp()
        z = size * (arb(x) + arb(bias))
        s = 1 / (1 + (-z).exp())
        slope = arb(lowest) * s * (1 - s)
        return arb(lowest) * s, slope * size, slope * z


class GatesOf(Protocol):
    """The fields of a contract that say which gates a kernel takes."""

    @property
    def gate(self) -> str:
        """The form of its gates."""

    @property
    def lower_bound(self) -> float | None:
        """The least l of "bounded" gates."""

    @property
    def of_gates(self) -> tuple[str, ...]:
        """The parameters of its gates that it takes."""

    @property
    def dt_softplus(self) -> bool:
        """Whether a step is softplus(dt + dt_bias)."""

    @property
    def dt_limit(self) -> tuple[float, float] | None:
        """The limit of a step, or None."""


class GateInputs(Protocol):
    """The gates of a call, and their parameters."""

    @property
    def fgate(self) -> Array:
        """The gates."""

    @property
    def A_log(self) -> Array | float:
        """A_log, broadcast to the gates."""

    @property
    def dt_bias(self) -> Array | float:
        """dt_bias, broadcast to the gates."""

    @property
    def closed(self) -> Mask:
        """The gates that are closed for good."""


GATE_FORMS: dict[str, GateForm] = {
    "log": Log(),
    "fixed": Log(),
    "preact": Preact(),
    "decay": Decay(),
    "dt": Step(),
    "bounded": Bounded(),
}


def form_of(contract: GatesOf) -> GateForm:
    """Return the form of a contract's gates."""
    if contract.gate == "dt":
        return Step(contract.dt_softplus, contract.dt_limit, "A" in contract.of_gates)
    return GATE_FORMS[contract.gate]


def weight_balls(contract: GatesOf, x: float, bias: float, log: arb) -> tuple[arb, arb]:
    """Return the weight w of a source, and dw / dx. log: its l, in balls."""
    form = form_of(contract)
    return form.step_balls(x, bias) if isinstance(form, Step) else (-log, arb(-1))


def gate_balls(contract: GatesOf, inputs: GateInputs, b: int, h: int) -> list[Any]:
    """Return (l, dl / dx, dl / dA_log) of each gate of head (b, h) of the oracle, in a list a time.

    By channel each time has a list of K of them. A gate that is closed or no number gives (0, 1, 0).
    """
    form, lowest = form_of(contract), contract.lower_bound or 0.0
    x, A, bias = (
        np.broadcast_to(y, inputs.fgate.shape)[b, h] for y in (inputs.fgate, inputs.A_log, inputs.dt_bias)
    )
    known = np.isfinite(x) & ~inputs.closed[b, h]
    flat = [
        form.balls(float(f), float(a), float(p), lowest) if there else (arb(0), arb(1), arb(0))
        for f, a, p, there in zip(x.ravel(), A.ravel(), bias.ravel(), known.ravel(), strict=True)
    ]
    K = x.shape[-1]
    return flat if x.ndim == 1 else [flat[n : n + K] for n in range(0, len(flat), K)]
