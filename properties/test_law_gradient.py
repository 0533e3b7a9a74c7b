"""Laws of gradients: di[s] sums column s, df[k] the rectangle below and left of k, times sigmoid(-f[k])."""

from __future__ import annotations

import numpy as np

from dmat.properties import needs
from dmat.strategies import Cotangent, Gates
from dmat.strategies.cases.dtilde import COTANGENTS, FINITE_COTANGENTS, MASKED_COTANGENTS
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds import fused as fused_bounds
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS, NO_BOUND
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.autograd import reference_gradients
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.kinds import BACKWARD, BOTH, INTEGERS_BACK
from dmat.testing.law.law import law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.require import (
    require,
    require_agreement,
    require_exact,
    require_kinds,
    require_same,
    require_within,
)

NEEDS = (needs.gradients,)


def require_gradient(subject: Subject, call: Case, name: str) -> None:
    """Require the gradient of this input within its bound, where the contract defines it."""
    if name in subject.judged_gradients(call):
        gradients = subject.pull_on(subject.build(call), call)[0]
        subject.observe(require_within(gradients.of(name), subject.gradient_must_be(gradients, name)))


@law(
    BACKWARD,
    bound={DTILDE: dtilde_bounds.fgate_gradient_bound, FUSED: (FusedBounds.gate, DeltaBounds.gate)},
    needs={DTILDE: NEEDS, FUSED: (*NEEDS, needs.gate)},
    kinds=BOTH,
)
def test_law_forget_gradient(subject: Subject, call: Case) -> None:
    """{df[k] is sigmoid(-f[k]) times the sum of G[t, s] over t >= k > s //
    The forget gate's gradient at k is the sum of X[t, s] over t >= k > s, times dl/df}, within its bound.

    Why: The rectangle is where carries, tails and the derivative of the gate are lost.
    Bound: {section 3: (gamma(N + 16) + 3 u_a c) A sigmoid(-f), N non-zero cotangents of magnitude A //
        docs/fused.md section 2, gradients}.
    """
    require_gradient(subject, call, subject.gates[1])


@law(
    BACKWARD,
    bound={DTILDE: dtilde_bounds.igate_gradient_bound, FUSED: FusedBounds.igate},
    needs={DTILDE: NEEDS, FUSED: (*NEEDS, needs.igate)},
    kinds=BOTH,
)
def test_law_input_gradient(subject: Subject, call: Case) -> None:
    """{di[s] is the sum of G[t, s] over t >= s //
    The input gate's gradient at s is the sum of X[t, s] over t >= s}, within its bound.

    Why: A column summed short, {over rows, or in a half type still trains, only worse //
        a stabiliser's derivative left over, or underflow through e^-m}.
    Bound: {section 3: gamma(n_s + 4) sum |G|, n_s non-zero cotangents // docs/fused.md section 2, gradients}.
    """
    require_gradient(subject, call, subject.gates[0])


@law(
    BACKWARD,
    bound={
        DTILDE: dtilde_bounds.GRADIENT_BOUNDS,
        FUSED: (*fused_bounds.GRADIENT_BOUNDS, *delta_bounds.GRADIENT_BOUNDS),
    },
    needs=NEEDS,
    kinds=BOTH,
)
def test_law_gradient_finite(subject: Subject, call: Case) -> None:
    """{Finite cotangents give finite gradients at every gate that is not NaN //
    Finite inputs and cotangents give finite gradients of every input}, unless they overflow.

    Why: exp of a positive number before the mask, or a where that is not taken: NaN in the weights.
    Bound: none but overflow{, as section 3 allows it // }.
    """
    gradients = subject.pull_on(subject.build(call), call)[0]
    for name in gradients.gradients:
        require_kinds(gradients.of(name), subject.gradient_must_be(gradients, name))


@law(
    INTEGERS_BACK,
    bound=EQUAL_BITS,
    needs={DTILDE: (*NEEDS, needs.exact_sums), FUSED: (*NEEDS, needs.integers)},
    kinds=BOTH,
)
def test_law_gradient_exact(subject: Subject, call: Case) -> None:
    """On integers {both gradients are exact: sigmoid(-f) = 1 for f <= -64, 0 for f = +inf //
    the gradients of log gates and input gates are exact}.

    Why: Every fault of index, chunk or head of the backward shows on integers, with no tolerance.
    Bound: zero{ (section 4) //: E is 1 or 0 in any order of summation, and the formats hold the sums. Of an
        mLSTM, whose normaliser and stabiliser are then 1 and 0, they are integers of a small power of two}.
    """
    gradients = subject.pull_on(subject.build(call), call)[0]
    for name, exact in subject.exact_gradients(gradients).items():
        require_exact(gradients.of(name), exact)


@law(BACKWARD, bound=NO_BOUND, needs=NEEDS, kinds=BOTH)
def test_law_gradient_shape(subject: Subject, call: Case) -> None:
    """Each gradient has the shape, dtype and device of its {gate // input}.

    Why: A gradient of another shape is broadcast, silently, into the optimiser.
    Bound: none.
    """
    inputs = subject.build(call)
    gradients = subject.pull_on(inputs, call)[0].gradients
    for name, x in inputs.named.items():
        found, wanted = ((tuple(y.shape), y.dtype, y.device) for y in (gradients[name], x))
        require(found == wanted, subject.gradient_name(name), found, wanted)


@law(
    BACKWARD,
    bound={
        DTILDE: (EQUAL_BITS, dtilde_bounds.fgate_gradient_bound),
        FUSED: (EQUAL_BITS, FusedBounds.gate),
    },
    needs={DTILDE: NEEDS, FUSED: (*NEEDS, needs.gate, needs.sums)},
    kinds=BOTH,
)
def test_law_first_forget_gradient(subject: Subject, call: Case) -> None:
    """The first forget gate gets no gradient: {df[0] = 0, exactly in window scope //
    exactly 0 where gradients sum the rectangle alone}.

    Why: The first forget gate is in no window; differences of sums leave 1e-6 where 0 is due.
    Bound: zero{ for the window scope; else section 3, df with N and A of the whole causal part //, or
        docs/fused.md section 2 for the other values of grad_scope; weighted by -l, it has its weight's}.
    """
    name = subject.gates[1]
    if name in subject.judged_gradients(call):
        gradients = subject.pull_on(subject.build(call), call)[0]
        computed, zero = gradients.of(name), subject.first_gradient(gradients)
        if zero is not None:
            require_exact(computed, zero)
        else:
            later = np.ones(computed.shape, dtype=bool)
            later[:, :, :1] = False
            require_within(computed, subject.gradient_must_be(gradients, name).freed(later))


@law(COTANGENTS, bound=EQUAL_BITS, needs=(*NEEDS, needs.window_scope))
def test_law_gradient_locality(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """A gradient that no cotangent reaches is exactly 0.

    Why: What no cotangent reaches has gradient 0: whatever else is read, or cancelled.
    Bound: zero.
    """
    gradients = subject.gradients(gates, cotangent)
    column = np.tril(gradients.G) if subject.contract.masked_cotangent == "ignored" else gradients.G
    unreached_i = ~(column != 0).any(axis=-2) & ~np.isnan(gradients.run.igate)
    require_same("di", gradients.di, np.zeros_like(gradients.di), unreached_i, "no G in its column")
    rectangle = subject.backward(gradients).rectangle_count
    unreached = (rectangle == 0) & ~np.isnan(gradients.run.fgate)
    require_same("df", gradients.df, np.zeros_like(gradients.df), unreached, "no G in its rectangle")


@law(MASKED_COTANGENTS, bound=dtilde_bounds.GRADIENT_BOUNDS, needs=NEEDS)
def test_law_masked_cotangent(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """G above the diagonal, where D~ is constant, is not read ("ignored"), or only by di ("summed").

    Why: D~ is constant above the diagonal; NaN from a masked softmax stands there in practice.
    Bound: section 3, gradients; nothing that stands above the diagonal enters them.
    """
    subject.require_gradients(subject.gradients(gates, cotangent))


@law(FINITE_COTANGENTS, bound=dtilde_bounds.GRADIENT_BOUNDS, needs=NEEDS)
def test_law_gradient_autograd(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Both gradients equal autograd of the reference formula, within the bounds of both.

    Why: Two oracles that share no formula: sums of the definition, and autograd of it in float64.
    Bound: both bounds of section 3, that of the formula in (prefix, float64).
    """
    gradients = subject.gradients(gates, cotangent)
    reference, judge = reference_gradients(subject, gradients)
    note = "against autograd of the reference formula in float64"
    for name, ours, theirs in zip(("di", "df"), subject.expected_gradients(gradients), judge, strict=True):
        require_agreement(getattr(gradients, name), ours, getattr(reference, name), theirs, note)
