"""Laws of gradients of fused kernels: sums of X[t, s] = (dL/dD~)[t, s] over rectangles and columns."""

from __future__ import annotations

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import DENSE
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FUSED
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.require import require_within

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
