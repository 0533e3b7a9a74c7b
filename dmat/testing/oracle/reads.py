"""The kinds of operator, one class each: how E = exp(D~) and q.k make an output (docs/fused.md section 1).

A kind says what the oracle, the bounds and the probes ask of it, always in the same order. A new kind is one
more class in READS, and its name in READS of dmat.testing.contract.names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
from flint import arb

from dmat.strategies.promised import Scaling
from dmat.testing.oracle.arithmetic import Array, Mask

ZERO, ONE = arb(0), arb(1)
LARGEST_LOG = 700.0  # exp of it is finite in float64

Number = TypeVar("Number", Array, arb)


class Reads(ABC):
    """A kind of operator: o[t] = (sum over s of a[t, s] v_s) / N(n[t]), n[t] the sum of a[t, s] over s.

    normalised: whether it divides by N, and so may take a stabiliser m off what it exponentiates.
    from_zero: whether m may start from 0, before the first gate. truncates: whether a backward may hold N
    constant (gradient="truncated"). inexact: why no integers give exact results, "" where some do.
    scaling: how its probes are scaled.
    """

    normalised: ClassVar[bool]
    from_zero: ClassVar[bool]
    truncates: ClassVar[bool]
    inexact: ClassVar[str]
    scaling: ClassVar[Scaling]

    @staticmethod
    @abstractmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """Return what is exponentiated, of D~ and scale q.k; or the size, or the error, of it."""

    @staticmethod
    @abstractmethod
    def coefficient(E: Number, product: Number) -> Number:
        """Return a, of w E and scale q.k; or the size, or the error, of it."""

    @staticmethod
    @abstractmethod
    def normaliser(n: Array) -> Array:
        """Return N."""

    @staticmethod
    @abstractmethod
    def slope(n: Array) -> Array:
        """Return dN / dn."""

    @staticmethod
    @abstractmethod
    def bent(n: Array, error: Array) -> Mask:
        """Whether n is within its error of a place where dN / dn jumps: either slope may be taken."""

    @staticmethod
    @abstractmethod
    def normaliser_ball(n: arb) -> arb:
        """Return N, in balls."""

    @staticmethod
    @abstractmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """Return dN / dn in balls: both where n may be on either side of a jump."""

    @staticmethod
    @abstractmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """Return the largest m, of a row's largest exponent, the sum of l since the start, and i so far."""

    @staticmethod
    @abstractmethod
    def magnified(low: Array, high: Array) -> float:
        """Return by how much m, low to high, may magnify what a gradient loses to underflow."""


class Linear(Reads):
    """o[t] = sum over s of a[t, s] v_s, a = w E scale q.k."""

    normalised = False
    from_zero = False
    truncates = False
    inexact = ""
    scaling = Scaling(far=(0, 0, 0, 8))  # so far that a clamp bites

    @staticmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """D~."""
        return dtilde

    @staticmethod
    def coefficient(E: Number, product: Number) -> Number:
        """a = w E scale q.k."""
        return E * product

    @staticmethod
    def normaliser(n: Array) -> Array:
        """N = 1."""
        return np.ones_like(n)

    @staticmethod
    def slope(n: Array) -> Array:
        """dN / dn = 0."""
        return np.zeros_like(n)

    @staticmethod
    def bent(n: Array, error: Array) -> Mask:
        """Nowhere."""
        return np.zeros(n.shape, dtype=bool)

    @staticmethod
    def normaliser_ball(n: arb) -> arb:
        """N = 1."""
        return ONE

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = 0."""
        return (ZERO,)

    @staticmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """It takes none: m of the row's largest term, for what underflows."""
        return largest

    @staticmethod
    def magnified(low: Array, high: Array) -> float:
        """g = 1: nothing is divided by e^m."""
        return 1.0


class MLSTM(Reads):
    """o[t] = (sum over s of a[t, s] v_s) / max(|n[t]|, 1), a = w E scale q.k, whatever stabiliser it uses."""

    normalised = True
    from_zero = True
    truncates = True
    inexact = ""
    scaling = Scaling(regimes=("unit", "small"), near=(0, 0, -4, 4), far=(0, 0, -4, 4))

    @staticmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """D~."""
        return dtilde

    @staticmethod
    def coefficient(E: Number, product: Number) -> Number:
        """a = w E scale q.k."""
        return E * product

    @staticmethod
    def normaliser(n: Array) -> Array:
        """N = max(|n|, 1)."""
        return np.asarray(np.maximum(np.abs(n), 1.0))

    @staticmethod
    def slope(n: Array) -> Array:
        """dN / dn = [|n| > 1] sgn(n)."""
        return np.asarray(np.sign(n) * (np.abs(n) > 1))

    @staticmethod
    def bent(n: Array, error: Array) -> Mask:
        """Where | |n| - 1 | <= dn."""
        return np.asarray(np.abs(np.abs(n) - 1) <= error)

    @staticmethod
    def normaliser_ball(n: arb) -> arb:
        """N = max(|n|, 1)."""
        return abs(n) if abs(n) > 1 else ONE if abs(n) < 1 else abs(n).union(ONE)

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = [|n| > 1] sgn(n); at |n| = 1 either is right."""
        if abs(n) < 1:
            return (ZERO,)
        return (_sign(n),) if abs(n) > 1 else (_sign(n), ZERO)

    @staticmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """The largest of m of a row, of a start from m = 0, and of the input gates so far, undecayed."""
        return np.maximum(np.maximum(largest, since), np.maximum.accumulate(igate, axis=-1))

    @staticmethod
    def magnified(low: Array, high: Array) -> float:
        """g = max(e^m, e^-m): the 1 of max(|n|, 1) stands as e^-m beside n."""
        return float(np.exp(min(max(high.max(initial=0.0), -low.min(initial=0.0)), LARGEST_LOG)))


class Softmax(Reads):
    """o[t] = (sum over s of a[t, s] v_s) / n[t], a = E e^(scale q.k), n the sum of a."""

    normalised = True
    from_zero = False
    truncates = False
    inexact = "a softmax divides: it is exact on no integers"
    scaling = Scaling(far=(0, 0, 0, 6), multiplies=False)  # so far that exp overflows without a maximum

    @staticmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """D~ + scale q.k."""
        return dtilde + product

    @staticmethod
    def coefficient(E: Number, product: Number) -> Number:
        """a = E, in which scale q.k is exponentiated."""
        return E

    @staticmethod
    def normaliser(n: Array) -> Array:
        """N = n; 1 where all terms underflow in float64."""
        return np.where(n == 0, 1.0, n)

    @staticmethod
    def slope(n: Array) -> Array:
        """dN / dn = 1, for n > 0; 0 where all terms underflow in float64."""
        return np.asarray(np.sign(n))

    @staticmethod
    def bent(n: Array, error: Array) -> Mask:
        """Nowhere."""
        return np.zeros(n.shape, dtype=bool)

    @staticmethod
    def normaliser_ball(n: arb) -> arb:
        """N = n."""
        return n

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = 1, for n > 0."""
        return (_sign(n),)

    @staticmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """m of a row, or less, so far."""
        return largest

    @staticmethod
    def magnified(low: Array, high: Array) -> float:
        """g = 1: e^m is taken off both the numerator and n."""
        return 1.0


def _sign(n: arb) -> arb:
    return ONE if n > 0 else -ONE if n < 0 else arb(0, 1)


READS: dict[str, type[Reads]] = {"linear": Linear, "mlstm": MLSTM, "softmax": Softmax}
