"""Laws of gradients of fused kernels: X[t, s] = (dL/dD~)[t, s] summed over rectangles and columns."""

from __future__ import annotations

import numpy as np

from dmat.properties import fused_needs as needs
from dmat.strategies import Gates, Probe
from dmat.strategies.probe_cases import DENSE, EXACT, PROBED
from dmat.testing.contract import FUSED
from dmat.testing.exact import Array
from dmat.testing.law import law
from dmat.testing.readout.subject import FusedSubject
from dmat.testing.verdict import require, require_kinds, require_same, require_within

NEEDS = (needs.gradients,)


def one_law_serves(subject: FusedSubject, probe: Probe) -> bool:
    """Whether the gradient is defined by the contract here: truncated ones only where the normaliser is 1."""
    return subject.fused.gradient == "full" or subject.fused.reads != "mlstm" or probe.regime == "small"


@law(PROBED, order=13, of=FUSED, needs=NEEDS)
def test_law_gradient_shape(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Each gradient has the shape, dtype and device of its input.

    Why: A gradient of another shape is broadcast, silently, into the optimiser.
    Bound: none.
    """
    inputs = subject.inputs(gates, probe)
    gradients = subject.pull_of(inputs, probe)
    for name, x in inputs.named.items():
        gradient = gradients.tensors[name]
        found, wanted = ((tuple(y.shape), y.dtype, y.device) for y in (gradient, x))
        require(found == wanted, subject.gradient_name(name), found, wanted)


@law(PROBED, order=5, of=FUSED, needs=NEEDS)
def test_law_gradient_finite(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Finite inputs and cotangents give finite gradients of every input, unless they overflow.

    Why: exp of a positive number before the mask, or a where that is not taken: NaN in the weights.
    Bound: none but overflow.
    """
    gradients = subject.pull(gates, probe)
    for name in gradients.tensors:
        require_kinds(gradients.of(name), subject.expected_gradient(gradients, name))


@law(PROBED, order=4, of=FUSED, needs=(*NEEDS, needs.gate))
def test_law_forget_gradient(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The forget gate's gradient at k is the sum of X[t, s] over t >= k > s, times dl/df, within its bound.

    Why: The rectangle is where carries, tails and the derivative of the gate are lost.
    Bound: docs/fused.md section 2, gradients.
    """
    if one_law_serves(subject, probe):
        gradients = subject.pull(gates, probe)
        subject.observe(require_within(gradients.of("g"), subject.expected_gradient(gradients, "g")))


@law(PROBED, order=4, of=FUSED, needs=(*NEEDS, needs.igate))
def test_law_input_gradient(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The input gate's gradient at s is the sum of X[t, s] over t >= s, within its bound.

    Why: A column summed short, a stabiliser's derivative left over, or underflow through e^-m.
    Bound: docs/fused.md section 2, gradients.
    """
    if one_law_serves(subject, probe):
        gradients = subject.pull(gates, probe)
        subject.observe(require_within(gradients.of("i"), subject.expected_gradient(gradients, "i")))


@law(DENSE, order=11, of=FUSED, needs=(*NEEDS, needs.dense, needs.products))
def test_law_product_gradients(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The gradients of q, k and v are those of o = sum of E[t, s] (scale q_t.k_s) v_s, within their bounds.

    Why: A scale applied once too often, a tile transposed, the last chunk's carry left out going back.
    Bound: docs/fused.md section 2, gradients.
    """
    if one_law_serves(subject, probe):
        gradients = subject.pull(gates, probe)
        for name in "qkv":
            subject.observe(require_within(gradients.of(name), subject.expected_gradient(gradients, name)))


@law(PROBED, order=14, of=FUSED, needs=(*NEEDS, needs.gate))
def test_law_first_forget_gradient(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The first forget gate gets no gradient: exactly 0 where gradients sum the rectangle alone.

    Why: The first forget gate is in no window; differences of sums leave 1e-6 where 0 is due.
    Bound: zero, or docs/fused.md section 2 for grad_scope="suffix"; weighted by -l, it has its weight's.
    """
    if not one_law_serves(subject, probe):
        return
    gradients = subject.pull(gates, probe)
    computed = gradients.of("g")
    plain = subject.fused.weight is None and subject.fused.reads == "linear"
    if subject.fused.widest_gradient == "rectangle" and plain:
        first = np.zeros(computed.shape, dtype=bool)
        first[..., :1] = True
        require_same(
            subject.gradient_name("g"), computed, np.zeros_like(computed), first, "no window holds it"
        )
    else:
        later = np.broadcast_to(np.arange(computed.shape[-1]) > 0, computed.shape)
        require_within(computed, subject.expected_gradient(gradients, "g").freed(later))


def _integers(computed: Array, exact: Array, sizes: Array, quantity: str) -> None:
    """Require what is an integer of few enough bits to be so, bit for bit."""
    require_same(quantity, computed, exact, np.asarray(sizes < 256))


@law(EXACT, order=7, of=FUSED, needs=(*NEEDS, needs.integers))
def test_law_gradient_exact(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """On integers the gradients of log gates and input gates are exact.

    Why: Every fault of index, chunk or head of the backward shows on integers, with no tolerance.
    Bound: zero: E is 1 or 0 in any order of summation, and sums stay within 8 bits.
    """
    gradients = subject.pull(gates, probe)
    truth = subject.truth(gradients.run.seen)
    pulled = truth.pulled(gradients.W)
    if subject.fused.reads != "linear":
        return  # q is scaled, and the terms are no integers; the bound is as sharp
    sizes = pulled.sizes.sum((-1, -2), keepdims=True)[..., 0]
    if subject.fused.gate == "log":
        _integers(gradients.of("g"), pulled.dgate, np.broadcast_to(sizes, pulled.dl.shape), "dl")
    if subject.fused.igate:
        _integers(gradients.of("i"), pulled.di, np.broadcast_to(sizes, pulled.di.shape), "di")
