"""Forward mode and second derivatives of a D~ kernel: the calls and the expected values.

A direction is a pair (v_i, v_f) of the shape of the gates; the true values are those of oracle/derivative.py.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dmat.testing.bounds.derivative import (
    curvature_bound,
    curvature_size,
    gradient_in_G_bound,
    is_judged,
    tangent_bound,
)
from dmat.testing.errors import Refused
from dmat.testing.kernel.call import raised
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import FINITE, FREE, Array
from dmat.testing.oracle.derivative import Curvature, GatePair, Tangent
from dmat.testing.oracle.dtilde import Backward
from dmat.testing.verdict.finding import Expected, LawBroken, as_array

NO_FORWARD_MODE = (
    "a kernel that has no forward mode raises there, or says so: forward_mode=False in the contract"
)
HINT = (
    "a backward that is not differentiable itself says so: torch.autograd.function.once_differentiable,"
    " or second_order=False in the contract"
)


def pair_of(igate: Tensor, fgate: Tensor) -> GatePair:
    """Copy the values of two tensors (B, NH, S, 1)."""
    return GatePair(as_array(igate)[..., 0], as_array(fgate)[..., 0])


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


# Expected values


def expected_tangent(
    subject: DtildeSubject, gates: GatePair, v: GatePair, *, summed: bool = False
) -> Expected:
    """Return the expected value of J v for finite gates.

    summed: the entries above the diagonal are v_i[s], not 0.
    """
    truth = Tangent(gates, v, summed, subject.wide)
    bound = tangent_bound(truth, subject.rounding)
    kind = np.full(truth.value.hi.shape, FINITE, dtype=np.int8)
    return Expected("J v", kind, truth.value, truth.slack, bound, truth.ball, NO_FORWARD_MODE)


def expected_gradient_in_G(subject: DtildeSubject, gates: GatePair, v: GatePair) -> Expected:
    """Return the expected value of d<v, J' G> / dG, which is J v."""
    truth = Tangent(gates, v, subject.contract.masked_cotangent == "summed", subject.wide)
    bound = gradient_in_G_bound(truth, subject.rounding)
    kind = np.full(truth.value.hi.shape, FINITE, dtype=np.int8)
    return Expected("d<v, J' G>/dG", kind, truth.value, truth.slack, bound, truth.ball, HINT)


def expected_curvature(subject: DtildeSubject, gates: GatePair, backward: Backward, v: GatePair) -> Expected:
    """Return the expected value of d<v, J' G> / df; entries that are not judged are free."""
    truth, rounding = Curvature(gates, v, backward, subject.wide), subject.rounding
    bound, slack = curvature_bound(truth, rounding), truth.slack(curvature_size(truth, rounding))
    kind = np.where(is_judged(truth, rounding), FINITE, FREE).astype(np.int8)
    return Expected("d<v, J' G>/df", kind, truth.value, slack, bound, truth.ball, HINT)
