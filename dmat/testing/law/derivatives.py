"""Forward mode and second derivatives: the calls, the true values, and the allowed errors.

A direction is a pair (v_i, v_f) of the shape of the gates. docs/spec.md sections 2, 3 and 5:

    J v[t, s]             = v_i[s] + sum of v_f[k] sigmoid(-f[k]) over window(t, s)
    d<v, J' G> / dG[t, s] = J v[t, s], and v_i[s] above the diagonal where masked cotangents are summed
    d<v, J' G> / df[k]    = -v_f[k] R[k] sigmoid(f[k]) sigmoid(-f[k])
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from flint import arb
from torch import Tensor
from torch.autograd import forward_ad

from dmat.testing.bounds.dtilde import summed_cotangents
from dmat.testing.bounds.formats import CONDITION_ULPS, RATE_ULPS, Bound, Rounding, gamma
from dmat.testing.bounds.scope import derivative_scope, over_scope, scope_length
from dmat.testing.errors import Refused
from dmat.testing.kernel.call import raised
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import FINITE, FREE, Array, Mask, sigmoid_minus, single
from dmat.testing.oracle.dtilde import Backward
from dmat.testing.oracle.gates import GateTerms, window_sums
from dmat.testing.verdict.finding import Expected, LawBroken, as_array

# Autograd adds up the contributions of several paths to an input in the input's own dtype: so many roundings
# of u, for up to four paths that each round once.
WAYS_ULPS = 8
LARGEST_GATE = 100.0  # beyond it sigmoid(f) sigmoid(-f) is too small to be judged
NO_FORWARD_MODE = (
    "a kernel that has no forward mode raises there, or says so: forward_mode=False in the contract"
)
HINT = (
    "a backward that is not differentiable itself says so: torch.autograd.function.once_differentiable,"
    " or second_order=False in the contract"
)


@dataclass(frozen=True)
class GatePair:
    """Values of the input gate and the forget gate, or a direction v in them, (B, NH, S) float64 each."""

    igate: Array
    fgate: Array

    @classmethod
    def of(cls, igate: Tensor, fgate: Tensor) -> GatePair:
        """Copy the values of two tensors (B, NH, S, 1)."""
        return cls(as_array(igate)[..., 0], as_array(fgate)[..., 0])


# Calls


def pushed_forward(
    subject: DtildeSubject, gates: tuple[Tensor, Tensor], direction: tuple[Tensor, Tensor]
) -> Tensor:
    """Return J v by forward mode, (B, NH, S, S).

    Raises Refused if the implementation raises under forward mode, or if its output has no tangent.
    """
    with ExitStack() as stack:
        stack.enter_context(forward_ad.dual_level())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        duals = [
            forward_ad.make_dual(_own_elements(gate), v)  # type: ignore[no-untyped-call]
            for gate, v in zip(gates, direction, strict=True)
        ]
        stack.enter_context(subject.recorder.forward_mode(gates, direction, duals))
        try:
            tangent: Tensor | None = forward_ad.unpack_dual(subject.call(*duals)).tangent  # type: ignore
        except LawBroken as broken:
            raise Refused(f"forward mode {broken.finding.computed}") from broken
    if tangent is None:
        raise Refused("forward mode: the output carries no tangent")
    subject.recorder.tangent(tangent)
    return tangent


def _own_elements(gate: Tensor) -> Tensor:
    """Copy an expanded gate, because make_dual refuses it; detach any other gate."""
    return gate.clone() if 0 in gate.stride() else gate.detach()


@dataclass(frozen=True)
class Second:
    """The gradients of <v, J' G>: towards G, (B, NH, S, S), and towards f, (B, NH, S), both float64."""

    G: Array
    fgate: Array


def pulled_twice(
    subject: DtildeSubject, gates: tuple[Tensor, Tensor], G: Tensor, direction: tuple[Tensor, Tensor]
) -> tuple[Second, GatePair]:
    """Differentiate <v, J' G> once more; return its gradients, and v with zeros for a gradient left out.

    A gradient outside the autograd graph cannot be differentiated again, and is left out. Raises Refused if
    both gradients are outside the graph, or if a backward raises.
    """
    leaves = [x.detach().requires_grad_() for x in (*gates, G)]
    subject.recorder.inputs(v_i=direction[0], v_f=direction[1])
    subject.recorder.leaves((*gates, G), leaves)
    output = subject.call(leaves[0], leaves[1])
    if not output.requires_grad:
        raise Refused("second derivatives: the output asks for no gradient")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = torch.autograd.grad(output, leaves[:2], leaves[2], create_graph=True, allow_unused=True)
            parts = [(x * v).sum() for x, v in zip(first, direction, strict=True) if _moves(x)]
            if not parts:
                raise Refused("second derivatives: the gradients are outside the graph")
            # not grad(): it would bypass the error that once_differentiable raises
            torch.autograd.backward(torch.stack(parts).sum())
            second = [leaf.grad for leaf in leaves]
    except (Exception, SystemExit) as error:  # a user's backward may raise anything
        if isinstance(error, Refused):
            raise
        raise Refused(f"second derivatives {raised('', error).computed}") from error
    if all(x is None for x in second):
        raise Refused("second derivatives: the gradients are outside the graph")
    _, fgate, towards_G = (
        torch.zeros_like(leaf) if x is None else x for leaf, x in zip(leaves, second, strict=True)
    )
    took = [n for n, x in enumerate(first) if _moves(x)]
    subject.recorder.pulled_twice(direction, took, (fgate, towards_G))
    took_part = [subject.read(v)[..., 0] * _moves(x) for x, v in zip(first, direction, strict=True)]
    return Second(subject.read(towards_G), subject.read(fgate)[..., 0]), GatePair(*took_part)


def _moves(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.requires_grad


# True values and bounds


def expected_tangent(
    subject: DtildeSubject, gates: GatePair, v: GatePair, *, summed: bool = False
) -> Expected:
    """Return the expected value of J v for finite gates.

    With M = |v_i| + sum |v_f| sigmoid(-f), A = sum |v_f| and C = sum |v_f| sigmoid(-f) |f| sigmoid(f) over
    the derivative's scope: e = gamma(n + 16) M + 3 u_a C + (A + 2 n + 4) eta. The constants are those of df,
    which has the same factors. summed: the entries above the diagonal are v_i[s], not 0.
    """
    S, rounding = gates.fgate.shape[-1], subject.rounding
    terms = GateTerms.of(gates.fgate, wide=subject.wide)
    past = np.tri(S, dtype=bool)
    start = np.where(past | summed, v.igate[..., None, :], 0.0)
    with np.errstate(under="ignore"):
        moved = terms.rate * single(v.fgate)
        value = window_sums(moved, wide=subject.wide) + single(start)
        size = _window(np.abs(moved.hi)) + np.abs(start)
        e = np.where(past, _tangent_error(rounding, terms, v), 0.0)
        n = scope_length(S, derivative_scope(rounding.error_scope))
        e = e + gamma(n + RATE_ULPS, rounding.u_a) * np.abs(start)
    slack = (2 * S + 16) * 2.0 ** (-97 if subject.wide else -52) * size + 2.0**-1060

    def ball(index: tuple[int, ...]) -> arb:
        b, h, t, s = index
        window = np.s_[b, h, s + 1 : t + 1]
        moves = zip(gates.fgate[window].tolist(), v.fgate[window].tolist(), strict=True)
        return sum((sigmoid_minus(f) * arb(x) for f, x in moves), arb(float(start[index])))

    kind = np.full(value.hi.shape, FINITE, dtype=np.int8)
    bound = _bound(rounding, e, value.hi, _overflows(rounding, gates)[..., None])
    return Expected("J v", kind, value, slack, bound, ball, NO_FORWARD_MODE)


def _tangent_error(rounding: Rounding, terms: GateTerms, v: GatePair) -> Array:
    """Return e of J v without the part of v_i."""
    size, scope = np.abs(v.fgate), derivative_scope(rounding.error_scope)
    n = scope_length(size.shape[-1], scope)
    moved, conditioned = size * terms.rate.hi, size * terms.rate.hi * terms.rate_condition
    M, C, A = (over_scope(x, _window(x), scope) for x in (moved, conditioned, size))
    e = gamma(n + RATE_ULPS, rounding.u_a) * M + CONDITION_ULPS * rounding.u_a * C
    e = e + (A + 2 * n + 4) * rounding.eta
    return np.asarray(e + RATE_ULPS * rounding.u_a * A if rounding.gates == "absolute" else e)


def expected_gradient_in_G(subject: DtildeSubject, gates: GatePair, v: GatePair) -> Expected:
    """Return the expected value of d<v, J' G> / dG: J v, with the error of adding up paths in the dtype of G.

    The contribution of each path to G is rounded to the dtype of G. The paths together are as large as the
    terms of J v over the derivative's scope: each of the sums from one end may be a path of its own.
    """
    summed = subject.contract.masked_cotangent == "summed"
    expected = expected_tangent(subject, gates, v, summed=summed)
    moved = GateTerms.of(gates.fgate, wide=False).rate.hi * np.abs(v.fgate)
    scope = derivative_scope(subject.rounding.error_scope)
    size = over_scope(moved, _window(moved), scope) + np.abs(v.igate)[..., None, :]
    added = gamma(WAYS_ULPS, subject.rounding.u) * size
    bound = replace(expected.bound, bound=expected.bound.bound + added)
    return replace(expected, quantity="d<v, J' G>/dG", bound=bound, note=HINT)


def expected_curvature(subject: DtildeSubject, gates: GatePair, truth: Backward, v: GatePair) -> Expected:
    """Return the expected value of d<v, J' G> / df where 0 < |f| <= 100 and `stays_finite`; free elsewhere.

    e = gamma(N + 16) A |v_f| + (A |v_f| + 2 N + 4) eta, absolute, with the N and A of df, plus the rounding
    of adding up the paths to f in its dtype: gamma(8) A |v_f| in u.
    """
    rounding, S, f = subject.rounding, gates.fgate.shape[-1], gates.fgate
    N, A = summed_cotangents(truth, rounding.error_scope)
    size = A * np.abs(v.fgate)
    value = truth.df * GateTerms.of(-f, wide=subject.wide).rate * single(-v.fgate)
    with np.errstate(over="ignore", invalid="ignore"):
        e = (gamma(N + RATE_ULPS, rounding.u_a) + gamma(WAYS_ULPS, rounding.u)) * size
        e = e + (size + 2 * N + 4) * rounding.eta
        e = np.where(np.isnan(e), np.inf, e)
    slack = (4 * S + 48) * 2.0 ** (-96 if subject.wide else -53) * size + 2.0**-1060
    judged = (f != 0) & (np.abs(f) <= LARGEST_GATE) & stays_finite(rounding, f, size)

    def ball(index: tuple[int, ...]) -> arb:
        return -arb(float(v.fgate[index])) * truth.df_ball(index) * sigmoid_minus(-float(f[index]))

    kind = np.where(judged, FINITE, FREE).astype(np.int8)
    bound = _bound(rounding, e, value.hi, _overflows(rounding, gates))
    return Expected("d<v, J' G>/df", kind, value, slack, bound, ball, HINT)


def stays_finite(rounding: Rounding, f: Array, size: Array) -> Mask:
    """Return where `size` times exp(|f|) squared is finite: a second derivative may compute it on the way."""
    largest = min(rounding.accumulator.largest, rounding.output.largest)
    return np.asarray(np.abs(f) <= (math.log(largest) - np.log1p(size)) / 2.2)


def _window(terms: Array) -> Array:
    return window_sums(single(terms), wide=False).hi


def _overflows(rounding: Rounding, gates: GatePair) -> Mask:
    """Return where D~ of a head of finite gates may overflow, (B, NH, 1): its derivatives may then be NaN."""
    with np.errstate(over="ignore"):
        log = GateTerms.of(gates.fgate, wide=False).log.hi
        size = 2 * (np.abs(gates.igate).max(-1, initial=0.0) + np.abs(log).sum(-1))
    return np.asarray(~(size < min(rounding.accumulator.largest, rounding.output.largest)))[..., None]


def _bound(rounding: Rounding, e: Array, value: Array, free: Mask) -> Bound:
    """Return the bound. Cotangents and directions are small: only gates overflow, which `free` covers."""
    nowhere = np.zeros(value.shape, dtype=bool)
    return Bound(rounding.stored(e, value), nowhere, np.asarray(nowhere | free))
