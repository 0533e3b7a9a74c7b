"""Laws of gradients of fused kernels: sums of X[t, s] = (dL/dD~)[t, s] over rectangles and columns."""

from __future__ import annotations

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.sizes import DENSE_SIZES
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FUSED
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.require import require_within

NEEDS = (needs.gradients,)


@law(DENSE_SIZES, bound=(FusedBounds.product, DeltaBounds.product), kinds=(FUSED,), needs=NEEDS)
def test_law_product_gradients(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The gradients of q, k, v (z) are those of o = sum of E[t, s] (scale q_t.k_s) v_s, within their bounds.

    Of a delta rule those of o and of its last state.
    Why: A scale applied once too often, a tile transposed, the last chunk's carry left out going back.
    Bound: docs/fused.md section 2, gradients.
    """
    if subject.defines_gradients(qkv):
        gradients = subject.pull(gates, qkv)
        for name in "qkvz" if subject.contract.z else "qkv":
            subject.observe(require_within(gradients.of(name), subject.expected_gradient(gradients, name)))


def _require_own(subject: FusedSubject, gates: Gates, qkv: QKV, name: str) -> None:
    """Require the gradient of an input that delta rules alone have, if the call has that input."""
    gradients = subject.pull(gates, qkv)
    if name in gradients.tensors:
        subject.observe(require_within(gradients.of(name), subject.expected_gradient(gradients, name)))


@law(DENSE_SIZES, bound=DeltaBounds.beta, kinds=(FUSED,), needs=(*NEEDS, needs.beta))
def test_law_beta_gradient(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The gradient of beta_t is (S_t's gradient)' k_t . (v_t - D_t' k_t), within its bound.

    Why: beta is in the row of A, in W and in U: a backward that forgets one of them still trains.
    Bound: docs/fused.md section 5, gradients.
    """
    _require_own(subject, gates, qkv, "b")


@law(
    DENSE_SIZES,
    bound=DeltaBounds.first_state,
    kinds=(FUSED,),
    needs=(*NEEDS, needs.beta, needs.states, needs.state_gradients),
)
def test_law_state_gradient(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The gradient of the state that a call begins with is within its bound.

    Why: A state that is read forward and cut off going back; a decay of the first chunk left out.
    Bound: docs/fused.md section 5, gradients.
    """
    _require_own(subject, gates, qkv, "s")


@law(
    DENSE_SIZES,
    bound=(FusedBounds.parameter, DeltaBounds.parameter),
    kinds=(FUSED,),
    needs=(*NEEDS, needs.parameters),
)
def test_law_parameter_gradients(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The gradients of A_log or A, dt_bias and D are sums over batches and times, within their bounds.

    Why: A sum that leaves out the last chunk, a softplus without its derivative, a bias of another head.
    Bound: docs/fused.md section 7, gates made inside the kernel, and section 8, the skip.
    """
    if not subject.defines_gradients(qkv):
        return
    gradients = subject.pull(gates, qkv)
    for name in subject.contract.parameters:
        subject.observe(require_within(gradients.of(name), subject.expected_gradient(gradients, name)))
