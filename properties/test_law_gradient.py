"""Laws of gradients: di[s] sums column s, df[k] the rectangle below and left of k, times sigmoid(-f[k])."""

from __future__ import annotations

import numpy as np

from dmat.properties import needs
from dmat.strategies import Cotangent, Gates
from dmat.strategies.cases import (
    COTANGENTS,
    EXACT_COTANGENTS,
    FINITE_COTANGENTS,
    MASKED_COTANGENTS,
)
from dmat.testing.autograd import reference_gradients
from dmat.testing.exact import integer_gradients
from dmat.testing.law import law
from dmat.testing.subject import Subject
from dmat.testing.verdict import (
    require,
    require_agreement,
    require_kinds,
    require_same,
    require_within,
)

NEEDS = (needs.gradients,)


@law(COTANGENTS, order=13, needs=NEEDS)
def test_law_gradient_shape(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """Each gradient has the shape, dtype and device of its gate."""
    igate, fgate = gates.build(subject.device)
    gradients = subject.gradients(gates, cotangent)
    for name, gate, gradient in zip(("di", "df"), (igate, fgate), gradients.tensors, strict=True):
        found = (tuple(gradient.shape), gradient.dtype, gradient.device)
        wanted = (tuple(gate.shape), gate.dtype, gate.device)
        require(found == wanted, name, found, wanted)


@law(COTANGENTS, order=14, needs=NEEDS)
def test_law_first_forget_gradient(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """The first forget gate gets no gradient: df[0] = 0, exactly in window scope."""
    gradients = subject.gradients(gates, cotangent)
    if subject.contract.error_scope == "window":
        first = ~np.isnan(gradients.run.fgate)
        first[..., 1:] = False
        require_same("df", gradients.df, np.zeros_like(gradients.df), first, "no window holds f[0]")
    else:
        _, df = subject.expected_gradients(gradients)
        later = np.arange(gates.shape[-1]) > 0
        require_within(gradients.df, df.freed(later))


@law(COTANGENTS, order=6, needs=NEEDS)
def test_law_gradient_finite(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """Finite cotangents give finite gradients at every gate that is not NaN, unless they overflow."""
    gradients = subject.gradients(gates, cotangent)
    di, df = subject.expected_gradients(gradients)
    require_kinds(gradients.di, di)
    require_kinds(gradients.df, df)


@law(COTANGENTS, order=4, needs=NEEDS)
def test_law_input_gradient(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """di[s] is the sum of G[t, s] over t >= s, within its bound."""
    gradients = subject.gradients(gates, cotangent)
    di, _ = subject.expected_gradients(gradients)
    subject.observe(require_within(gradients.di, di))


@law(COTANGENTS, order=2, needs=NEEDS)
def test_law_forget_gradient(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """df[k] is sigmoid(-f[k]) times the sum of G[t, s] over t >= k > s, within its bound."""
    gradients = subject.gradients(gates, cotangent)
    _, df = subject.expected_gradients(gradients)
    subject.observe(require_within(gradients.df, df))


@law(FINITE_COTANGENTS, order=43, needs=NEEDS)
def test_law_gradient_autograd(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """Both gradients equal autograd of the reference formula, within the bounds of both."""
    gradients = subject.gradients(gates, cotangent)
    reference, judge = reference_gradients(subject, gradients)
    note = "against autograd of the reference formula in float64"
    for name, ours, theirs in zip(("di", "df"), subject.expected_gradients(gradients), judge, strict=True):
        require_agreement(getattr(gradients, name), ours, getattr(reference, name), theirs, note)


@law(EXACT_COTANGENTS, order=7, needs=(*NEEDS, needs.exact_sums))
def test_law_gradient_exact(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """On integers both gradients are exact: sigmoid(-f) = 1 for f <= -64, 0 for f = +inf."""
    gradients = subject.gradients(gates, cotangent)
    di, df = integer_gradients(gradients.run.fgate, gradients.G)
    require_same("di", gradients.di, di)
    require_same("df", gradients.df, df)


@law(COTANGENTS, order=15, needs=(*NEEDS, needs.window_scope))
def test_law_gradient_locality(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """A gradient that no cotangent reaches is exactly 0."""
    gradients = subject.gradients(gates, cotangent)
    column = np.tril(gradients.G) if subject.contract.masked_cotangent == "ignored" else gradients.G
    unreached_i = ~(column != 0).any(axis=-2) & ~np.isnan(gradients.run.igate)
    require_same("di", gradients.di, np.zeros_like(gradients.di), unreached_i, "no G in its column")
    rectangle = subject.backward(gradients).rectangle_count
    unreached = (rectangle == 0) & ~np.isnan(gradients.run.fgate)
    require_same("df", gradients.df, np.zeros_like(gradients.df), unreached, "no G in its rectangle")


@law(MASKED_COTANGENTS, order=16, needs=NEEDS)
def test_law_masked_cotangent(subject: Subject, gates: Gates, cotangent: Cotangent) -> None:
    """G above the diagonal, where D~ is constant, is not read ("ignored"), or only by di ("summed")."""
    gradients = subject.gradients(gates, cotangent)
    di, df = subject.expected_gradients(gradients)
    require_within(gradients.di, di)
    require_within(gradients.df, df)
