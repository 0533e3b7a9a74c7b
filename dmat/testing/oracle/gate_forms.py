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
class GateValues:
    """Functions of each gate x, in its shape. Conditions are in u_a, before the factor CONDITION_ULPS.

    log: l. rate: dl / dx. of_A: dl / dA_log. log_condition: how far rounding of x, A_log and their functions
    moves l, beyond the rounding of l itself. rate_condition: the same for dl / dx, relative.
    of_A_condition: the same for dl / dA_log, absolute. rate_error: absolute, of dl / dx where that has the
    factor 1 - sigmoid, which autograd takes of a rounded sigmoid.
    """

    log: Array
    rate: Array
    log_condition: Array
    rate_condition: Array
    of_A: Array
    of_A_condition: Array
    rate_error: Array | float = 0.0


class GateForm(ABC):
    """A form of gates."""

    @staticmethod
    def closed(x: Array) -> Mask:
        """Return where a gate is closed for good: l = -inf."""
        return np.asarray(x == -np.inf)

    @staticmethod
    @abstractmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """Return the functions of finite gates. A, bias: A_log, dt_bias. lowest: of the contract."""

    @staticmethod
    @abstractmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """Return l, dl / dx and dl / dA_log of a finite gate."""


class Log(GateForm):
    """x is l."""

    @staticmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = x."""
        zero = np.zeros_like(x)
        return GateValues(x, np.ones_like(x), zero, zero, zero, zero)

    @staticmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = x."""
        return arb(x), arb(1), arb(0)


class Decay(GateForm):
    """x is exp(l), in (0, 1]. A product of decays rounds at each factor: the condition is 1."""

    @staticmethod
    def closed(x: Array) -> Mask:
        """A decay of 0 is closed for good."""
        return np.asarray(x == 0)

    @staticmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = log x."""
        x, one = np.where(x > 0, x, 1.0), np.ones_like(x)
        return GateValues(np.log(x), 1 / x, one, *[0 * one] * 3)

    @staticmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = log x."""
        return arb(x).log(), 1 / arb(x), arb(0)


class Preact(GateForm):
    """x is f, and l = log sigmoid(f)."""

    @staticmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = log sigmoid(x)."""
        terms = GateTerms.of(x, wide=False)
        conditions = terms.log_condition, terms.rate_condition
        return GateValues(terms.log.hi, terms.rate.hi, *conditions, *[np.zeros_like(x)] * 2)

    @staticmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = log sigmoid(x)."""
        return log_sigmoid(x), sigmoid_minus(x), arb(0)


class Step(GateForm):
    """x is dt, and l = -exp(A_log) softplus(dt + dt_bias).

    y = dt + dt_bias is rounded once: softplus(y) moves by sigmoid(y) |y| u_a.
    """

    @staticmethod
    def closed(x: Array) -> Mask:
        """No finite step closes a gate for good."""
        return np.zeros(x.shape, dtype=bool)

    @staticmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
        """l = -exp(A) softplus(x + bias)."""
        y = x + bias
        terms, size = GateTerms.of(-y, wide=False), np.exp(A) + 0 * x  # log sigmoid(-y) = -softplus(y)
        log, rate = size * terms.log.hi, -size * terms.rate.hi
        condition = size * terms.log_condition + np.abs(log) * (OF_EXP + np.abs(A))
        return GateValues(log, rate, condition, terms.rate_condition + OF_EXP + np.abs(A), log, condition)

    @staticmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
        """l = -exp(A) softplus(x + bias)."""
        y, size = arb(x) + arb(bias), arb(A).exp()
        softplus = y + (-y).exp().log1p() if y > 0 else y.exp().log1p()
        return -size * softplus, -size / (1 + (-y).exp()), -size * softplus


class Bounded(GateForm):
    """x is dt, and l = lower_bound sigmoid(exp(A_log) (dt + dt_bias)).

    z = exp(A_log) (dt + dt_bias) is rounded, relative, as a sum, an exponential and their product.
    """

    @staticmethod
    def closed(x: Array) -> Mask:
        """No step closes a gate for good."""
        return np.zeros(x.shape, dtype=bool)

    @staticmethod
    def values(x: Array, A: Array, bias: Array, lowest: float) -> GateValues:
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

    @staticmethod
    def balls(x: float, A: float, bias: float, lowest: float) -> tuple[arb, arb, arb]:
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


GATE_FORMS: dict[str, type[GateForm]] = {
    "log": Log,
    "fixed": Log,
    "preact": Preact,
    "decay": Decay,
    "dt": Step,
    "bounded": Bounded,
}


def gate_balls(contract: GatesOf, inputs: GateInputs, b: int, h: int) -> list[Any]:
    """Return (l, dl / dx, dl / dA_log) of each gate of head (b, h) of the oracle, in a list a time.

    By channel each time has a list of K of them. A gate that is closed or no number gives (0, 1, 0).
    """
    form, lowest = GATE_FORMS[contract.gate], contract.lower_bound or 0.0
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
