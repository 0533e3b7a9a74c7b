"""The true values of forward mode and of second derivatives of D~, with bounds on the oracle's own error.

A direction is a pair (v_i, v_f) of the shape of the gates. docs/spec.md sections 2, 3 and 5:

    J v[t, s]             = v_i[s] + sum of v_f[k] sigmoid(-f[k]) over window(t, s)
    d<v, J' G> / dG[t, s] = J v[t, s], and v_i[s] above the diagonal where masked cotangents are summed
    d<v, J' G> / df[k]    = -v_f[k] R[k] sigmoid(f[k]) sigmoid(-f[k])
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flint import arb

from dmat.testing.oracle.arithmetic import Array, Pair, sigmoid_minus, single
from dmat.testing.oracle.dtilde import Backward
from dmat.testing.oracle.gates import GateTerms, window_sums


@dataclass(frozen=True)
class GatePair:
    """Values of the input gate and the forget gate, or a direction v in them, (B, NH, S) float64 each."""

    igate: Array
    fgate: Array


@dataclass(frozen=True)
class Tangent:
    """J v, (B, NH, S, S), for finite gates.

    v: the direction. summed: the entries above the diagonal are v_i[s], not 0. wide: for a kernel that
    accumulates in float64.
    """

    gates: GatePair
    v: GatePair
    summed: bool
    wide: bool

    @cached_property
    def terms(self) -> GateTerms:
        """Functions of each forget gate."""
        return GateTerms.of(self.gates.fgate, wide=self.wide)

    @cached_property
    def start(self) -> Array:
        """The part of v_i in each entry."""
        past = np.tri(self.gates.fgate.shape[-1], dtype=bool)
        return np.where(past | self.summed, self.v.igate[..., None, :], 0.0)

    @cached_property
    def moved(self) -> Pair:
        """v_f sigmoid(-f), (B, NH, S)."""
        with np.errstate(under="ignore"):
            return self.terms.rate * single(self.v.fgate)

    @cached_property
    def value(self) -> Pair:
        """J v to within `slack`."""
        with np.errstate(under="ignore"):
            return window_sums(self.moved, wide=self.wide) + single(self.start)

    @cached_property
    def slack(self) -> Array:
        """The bound on the error of `value`."""
        with np.errstate(under="ignore"):
            size = magnitudes(np.abs(self.moved.hi)) + np.abs(self.start)
        S = self.gates.fgate.shape[-1]
        return np.asarray((2 * S + 16) * 2.0 ** (-97 if self.wide else -52) * size + 2.0**-1060)

    def ball(self, index: tuple[int, ...]) -> arb:
        """Enclose J v at (b, h, t, s)."""
        b, h, t, s = index
        window = np.s_[b, h, s + 1 : t + 1]
        moves = zip(self.gates.fgate[window].tolist(), self.v.fgate[window].tolist(), strict=True)
        return sum((sigmoid_minus(f) * arb(x) for f, x in moves), arb(float(self.start[index])))


@dataclass(frozen=True)
class Curvature:
    """d<v, J' G> / df, (B, NH, S), for finite gates.

    v: the direction. backward: the true gradients J' G. wide: for a kernel that accumulates in float64.
    """

    gates: GatePair
    v: GatePair
    backward: Backward
    wide: bool

    @cached_property
    def value(self) -> Pair:
        """The second derivative: df times -v_f sigmoid(f)."""
        rate = GateTerms.of(-self.gates.fgate, wide=self.wide).rate
        return self.backward.df * rate * single(-self.v.fgate)

    def slack(self, size: Array) -> Array:
        """The bound on the error of `value`. size: the magnitude of the terms, (B, NH, S)."""
        S = self.gates.fgate.shape[-1]
        return np.asarray((4 * S + 48) * 2.0 ** (-96 if self.wide else -53) * size + 2.0**-1060)

    def ball(self, index: tuple[int, ...]) -> arb:
        """Enclose the second derivative at (b, h, k)."""
        gate = float(self.gates.fgate[index])
        return -arb(float(self.v.fgate[index])) * self.backward.df_ball(index) * sigmoid_minus(-gate)


def magnitudes(terms: Array) -> Array:
    """Sum magnitudes, (B, NH, S), over the window of each entry, (B, NH, S, S)."""
    return window_sums(single(terms), wide=False).hi
