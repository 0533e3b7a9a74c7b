"""Laws of gradients of fused kernels: sums of X[t, s] = (dL/dD~)[t, s] over rectangles and columns."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import DENSE, EXACT, PROBED
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import FUSED
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.verdict.finding import as_array
from dmat.testing.verdict.require import require_same, require_within

NEEDS = (needs.gradients,)


@law(DENSE, bound=FusedBounds.product, kinds=(FUSED,), needs=NEEDS)
def test_law_product_gradients(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The gradients of q, k and v are those of o = sum of E[t, s] (scale q_t.k_s) v_s, within their bounds.

    Of a delta rule those of q and v: that of k is also of what it erases.
    Why: A scale applied once too often, a tile transposed, the last chunk's carry left out going back.
    Bound: docs/fused.md section 2, gradients.
    """
    if subject.defines_gradients(qkv):
        gradients = subject.pull(gates, qkv)
        for name in "qv" if subject.contract.distinct_keys else "qkv":
            subject.observe(require_within(gradients.of(name), subject.expected_gradient(gradients, name)))


@law(PROBED, bound=(EQUAL_BITS, FusedBounds.gate), kinds=(FUSED,), needs=(*NEEDS, needs.gate))
def test_law_first_forget_gradient(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The first forget gate gets no gradient: exactly 0 where gradients sum the rectangle alone.

    Why: The first forget gate is in no window; differences of sums leave 1e-6 where 0 is due.
    Bound: zero, or docs/fused.md section 2 for the other values of grad_scope; weighted by -l, it has its
        weight's.
    """
    if not subject.defines_gradients(qkv):
        return
    gradients = subject.pull(gates, qkv)
    computed = gradients.of("g")
    plain = subject.contract.weight is None and not subject.reads.normalised
    if subject.contract.widest_gradient == "rectangle" and plain:
        first = np.zeros(computed.shape, dtype=bool)
        first[..., :1] = True
        require_same(
            subject.gradient_name("g"), computed, np.zeros_like(computed), first, "no window holds it"
        )
    else:
        later = np.broadcast_to(np.arange(computed.shape[-1]) > 0, computed.shape)
        require_within(computed, subject.expected_gradient(gradients, "g").freed(later))


def _unit(truth: Truth) -> float:
    """Return the power of two that all terms are integers of: of -1, 0 and 1 over the scale, q is a part."""
    sizes = np.abs(truth.inputs.q)
    return truth.scale * float(sizes[sizes > 0].min(initial=np.inf))


def _fits(subject: FusedSubject, truth: Truth, pulled: Pulled) -> Mask:
    """Whether the formats of the way hold every partial sum, (B, NH, 1).

    What is stored or summed, at most all terms together, within 1/u of the coarsest; what may be an operand
    of a product (q.k, W.v, the state k v and the gradient q W of it) within that of operands too.
    """
    rounding, unit, call_inputs = subject.rounding, _unit(truth), truth.inputs
    q, k, v, W = (
        np.abs(x) for x in (call_inputs.q * truth.scale / unit, call_inputs.k, call_inputs.v, pulled.W)
    )
    across, along = "bhtn,bhsn->bhts", "bhtn,bhtm->bhnm"
    operands = [np.einsum(across, *x) for x in ((q, k), (W, v))]
    operands += [np.einsum(along, *x) for x in ((k, v), (q, W))]
    largest = np.max([x.max((-1, -2), initial=0.0) for x in operands], axis=0)
    stored = max(x.u for x in (rounding.accumulator, rounding.products, rounding.gates, rounding.output))
    total = pulled.sizes.sum((-1, -2)) / unit
    return np.asarray((total < 1 / stored) & (largest <= 1 / max(stored, rounding.operands.u)))[..., None]


@law(EXACT, bound=EQUAL_BITS, kinds=(FUSED,), needs=(*NEEDS, needs.integers))
def test_law_gradient_exact(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """On integers the gradients of log gates and input gates are exact.

    Why: Every fault of index, chunk or head of the backward shows on integers, with no tolerance.
    Bound: zero: E is 1 or 0 in any order of summation, and the formats hold the sums. Of an mLSTM, whose
        normaliser and stabiliser are then 1 and 0, they are integers of a small power of two.
    """
    gradients = subject.pull(gates, qkv)
    truth = subject.truth(gradients.run.inputs)
    pulled = truth.pulled(gradients.W)
    exact = {"g": pulled.dgate} if subject.contract.gate == "log" else {}
    exact |= {"i": pulled.di} if subject.contract.igate else {}
    for name, value in exact.items():
        held = as_array(torch.from_numpy(value).to(gradients.tensors[name].dtype)) == value
        fits = held & _fits(subject, truth, pulled)
        require_same(subject.gradient_name(name), gradients.of(name), value, fits)
