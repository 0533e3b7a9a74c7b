"""Laws of derivatives beyond reverse mode: forward mode, and the second order."""

from __future__ import annotations

from dmat.properties import needs
from dmat.strategies import Cotangent, Gates
from dmat.strategies.cases.dtilde import DIRECTIONS
from dmat.testing.bounds.derivative import curvature_bound, gradient_in_G_bound, tangent_bound
from dmat.testing.law.derivatives import (
    expected_curvature,
    expected_gradient_in_G,
    expected_tangent,
    pair_of,
    pulled_twice,
    pushed_forward,
)
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.require import require_within


@law(DIRECTIONS, bound=tangent_bound, needs=(needs.gradients, needs.forward_mode, needs.same_process))
def test_law_adjoint(subject: DtildeSubject, gates: Gates, direction: Gates, cotangent: Cotangent) -> None:
    """Forward and reverse mode are adjoint, <J v, G> = <v, J' G>: J v is that of D~, within its bound.

    Why: Hessian-vector products and linearisation mix both modes; a jvp written by hand is seldom
        tested.
    Bound: that of J v: gamma(n + 16) (|v_i| + sum |v_f| sigmoid(-f)), its condition and flushes as in
        df, over the window or, under any wider contract, over the whole sequence; with the bounds of di
        and df it gives sum |G| err(J v) + sum |v| err(J' G).
    """
    inputs, moved = gates.build(subject.device), direction.build(subject.device)
    tangent = pushed_forward(subject, inputs, moved)
    summed = subject.contract.masked_cotangent == "summed"
    expected = expected_tangent(subject, pair_of(*inputs), pair_of(*moved), summed=summed)
    require_within(subject.read(tangent), expected)


@law(
    DIRECTIONS,
    bound=(gradient_in_G_bound, curvature_bound),
    needs=(needs.gradients, needs.second_order, needs.same_process),
)
def test_law_second_order(
    subject: DtildeSubject, gates: Gates, direction: Gates, cotangent: Cotangent
) -> None:
    """Second derivatives, the gradients of <v, J' G> in G and f, are right or refused with an error.

    Why: Gradient penalties differentiate the backward; what it saved as a constant is silently missing
        there.
    Bound: gamma(N + 16) A |v_f|, absolute, at 0 < |f| <= 100; in G that of J v; both with 8 roundings
        of u for ways added up in the dtype.
    """
    inputs, moved = gates.build(subject.device), direction.build(subject.device)
    G = cotangent.build(gates, subject.device)
    second, v = pulled_twice(subject, inputs, G, moved)
    at = pair_of(*inputs)
    require_within(second.G, expected_gradient_in_G(subject, at, v))
    truth = subject.backward_of(at.fgate, subject.read(G))
    require_within(second.fgate, expected_curvature(subject, at, truth, v))
