"""The kinds of operator, one class each: how E = exp(D~) and q.k make an output (docs/fused.md section 1).

A class of a sum has the functions that the oracle, the bounds and the QKV recipes call, always in the same
order. A new kind is one more class in READS, and one more name in READS of dmat.testing.contract.names.
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
    """A kind of operator.

    normalised: whether o is divided by N, so that a kernel may subtract a stabiliser m from the exponent.
    truncates: whether a backward may hold N constant (gradient="truncated"). inexact: why no integers give
    exact results, "" if some do. scaling: the scaling of its QKV recipes.
    """

    normalised: ClassVar[bool] = False
    truncates: ClassVar[bool] = False
    inexact: ClassVar[str] = ""
    scaling: ClassVar[Scaling]


class Sums(Reads):
    """A kind of operator: o[t] = (sum over s of a[t, s] v_s) / N(n[t]), n[t] the sum of a[t, s] over s.

    A kind has its own N, and what differs from the plain a = w E scale q.k, which no stabiliser magnifies.

    from_zero: whether m may start from 0, before the first gate. scored: whether scale q.k stands in the
    exponent, so that m depends on q and k too. adds_eps: whether the contract's eps is a part of n, and no
    error.
    """

    from_zero: ClassVar[bool] = False
    scored: ClassVar[bool] = False
    adds_eps: ClassVar[bool] = False

    @staticmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """Return the exponent of E from D~ and scale q.k, or its size or error from theirs: D~."""
        return dtilde

    @staticmethod
    def coefficient(E: Number, product: Number) -> Number:
        """Return a from w E and scale q.k, or its size or error from theirs: w E scale q.k."""
        return E * product

    @staticmethod
    @abstractmethod
    def normaliser(n: Array) -> Array:
        """Return N."""

    @staticmethod
    @abstractmethod
    def slope(n: Array) -> Array:
        """Return dN / dn."""

    @staticmethod
    def bent(n: Array, error: Array) -> Mask:
        """Return where n is within its error of a jump of dN / dn: a kernel may use either there; nowhere."""
        return np.zeros(n.shape, dtype=bool)

    @staticmethod
    @abstractmethod
    def normaliser_ball(n: arb) -> arb:
        """Return N, in balls."""

    @staticmethod
    @abstractmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """Return dN / dn in balls: two slopes if the ball of n contains a jump."""

    @staticmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """Return the largest m that a kernel may use in each row: its largest exponent.

        largest: the largest exponent of the row. since: the sum of l since the start. igate: the input gates.
        """
        return largest

    @staticmethod
    def magnified(low: Array, high: Array) -> Array | float:
        """Return the factor g by which m magnifies a gradient's loss to underflow, (B, NH) or one number, 1.

        low, high: the smallest and the largest m of each row, (B, NH, t).
        """
        return 1.0


class Linear(Sums):
    """o[t] = sum over s of a[t, s] v_s, a = w E scale q.k."""

    scaling = Scaling(far=(0, 0, 0, 8))  # so large that a clamp changes the result

    @staticmethod
    def normaliser(n: Array) -> Array:
        """N = 1."""
        return np.ones_like(n)

    @staticmethod
    def slope(n: Array) -> Array:
        """dN / dn = 0."""
        return np.zeros_like(n)

    @staticmethod
    def normaliser_ball(n: arb) -> arb:
        """N = 1."""
        return ONE

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = 0."""
        return (ZERO,)


class MLSTM(Sums):
    """o[t] = (sum over s of a[t, s] v_s) / max(|n[t]|, 1), a = w E scale q.k, for any stabiliser."""

    normalised = True
    from_zero = True
    truncates = True
    scaling = Scaling(regimes=("unit", "small"), near=(0, 0, -4, 4), far=(0, 0, -4, 4))

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
        """dN / dn = [|n| > 1] sgn(n); at |n| = 1 both slopes are right."""
        if abs(n) < 1:
            return (ZERO,)
        return (_sign(n),) if abs(n) > 1 else (_sign(n), ZERO)

    @staticmethod
    def stabiliser(largest: Array, since: Array, igate: Array) -> Array:
        """The maximum of three: the row's largest exponent, `since` (m = 0 at the start), any i up to t."""
        return np.maximum(np.maximum(largest, since), np.maximum.accumulate(igate, axis=-1))

    @staticmethod
    def magnified(low: Array, high: Array) -> Array | float:
        """g = max(e^m, e^-m): the 1 of max(|n|, 1) stands as e^-m beside n."""
        reach = np.maximum(high.max(-1, initial=0.0), -low.min(-1, initial=0.0))
        return np.asarray(np.exp(np.minimum(reach, LARGEST_LOG)))


class Softmax(Sums):
    """o[t] = (sum over s of a[t, s] v_s) / n[t], a = E e^(scale q.k), n the sum of a."""

    normalised = True
    scored = True
    inexact = "a softmax divides: it is exact on no integers"
    scaling = Scaling(far=(0, 0, 0, 6), multiplies=False)  # exp overflows unless a maximum is subtracted

    @staticmethod
    def exponent(dtilde: Number, product: Number) -> Number:
        """D~ + scale q.k."""
        return dtilde + product

    @staticmethod
    def coefficient(E: Number, product: Number) -> Number:
        """a = E, which contains e^(scale q.k)."""
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
    def normaliser_ball(n: arb) -> arb:
        """N = n."""
        return n

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = 1, for n > 0."""
        return (_sign(n),)


class Normalised(Sums):
    """o[t] = (sum over s of a[t, s] v_s) / (n[t] + eps), a = E scale q.k, n the sum of a; q, k at least 0.

    eps is that of the contract, and the oracle has it in n.
    """

    normalised = True
    adds_eps = True
    inexact = "it divides: it is exact on no integers"
    scaling = Scaling(near=(0, 0, -6, 4), far=(0, 0, -10, 8), unsigned=True)

    @staticmethod
    def normaliser(n: Array) -> Array:
        """N = n; 1 where all terms underflow in float64."""
        return np.where(n == 0, 1.0, n)

    @staticmethod
    def slope(n: Array) -> Array:
        """dN / dn = 1."""
        return np.ones_like(n)

    @staticmethod
    def normaliser_ball(n: arb) -> arb:
        """N = n."""
        return n

    @staticmethod
    def slopes(n: arb) -> tuple[arb, ...]:
        """dN / dn = 1."""
        return (ONE,)


def _sign(n: arb) -> arb:
    return ONE if n > 0 else -ONE if n < 0 else arb(0, 1)


class Delta(Reads):
    """S_t = exp(l_t) S_(t-1) + k_t u_t', u_t = beta_t (v_t - k_t' exp(l_t) S_(t-1)), o_t = scale S_t' q_t.

    No sum of terms a[t, s] v_s: dmat/testing/oracle/delta.py has its recurrence.
    """

    scaling = Scaling(erases=True)


SUMS: dict[str, type[Sums]] = {"linear": Linear, "mlstm": MLSTM, "softmax": Softmax, "normalised": Normalised}
READS: dict[str, type[Reads]] = {**SUMS, "delta": Delta}
