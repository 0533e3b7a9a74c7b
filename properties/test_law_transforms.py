"""Laws of transforms: under compile, vmap, export and autocast the result is the same, if claimed."""

from __future__ import annotations

import torch

from dmat.properties import needs
from dmat.strategies import Constant, Cotangent, Gates
from dmat.strategies.cases.dtilde import COTANGENTS, FEW, WINDOWS
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.kernel.dtilde import Gradients, Run
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import law
from dmat.testing.law.transforms import exported, judge_compiled, under_autocast, vmapped
from dmat.testing.verdict.require import require_within


def require_right(transformed: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Require D~ and, where the contract has them, its gradients within their bounds."""
    differentiable = transformed.contract.has_gradients
    gradients = transformed.gradients(gates, cotangent) if differentiable else None
    run = transformed.forward(gates) if gradients is None else gradients.run
    require_within(run.dtilde, transformed.expected_dtilde(run))
    if gradients is not None:
        transformed.require_gradients(gradients)


@law(
    WINDOWS,
    bound=dtilde_bounds.ALL_BOUNDS,
    needs=(needs.transform("vmap"), needs.same_process),
)
def test_law_vmapped(subject: DtildeSubject, gates: Gates, rival: Gates) -> None:
    """Under vmap, over both gates or over either, each D~ and its gradients are within their bounds.

    Why: A batching rule written by hand, or none, mixes samples.
    Bound: section 3, for every sample.
    """
    pairs = [torch.stack(pair).to(subject.device) for pair in zip(gates.dense(), rival.dense(), strict=True)]
    G = Cotangent(Constant(1.0)).build(gates, subject.device)
    for in_dims in ((0, 0), (0, None), (None, 0)):
        inputs = [x if dim == 0 else x[0] for x, dim in zip(pairs, in_dims, strict=True)]
        output, di, df = vmapped(subject, inputs, in_dims, G)
        for n in range(2):
            seen = [
                subject.read(x[n] if dim == 0 else x)[..., 0] for x, dim in zip(inputs, in_dims, strict=True)
            ]
            run = Run(seen[0], seen[1], output[n], subject.read)
            require_within(run.dtilde, subject.expected_dtilde(run))
            if subject.contract.has_gradients:
                subject.require_gradients(Gradients(run, subject.read(G), (di[n], df[n])))


@law(
    COTANGENTS,
    bound=dtilde_bounds.ALL_BOUNDS,
    needs=(needs.transform("autocast"), needs.same_process),
)
def test_law_autocast(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Under autocast D~ and its gradients keep their dtype and their bounds.

    Why: Autocast narrows matrix products inside a kernel, with nobody asking.
    Bound: section 3, in the dtype of the gates.
    """
    require_right(under_autocast(subject), gates, cotangent)


@law(
    FEW,
    bound=dtilde_bounds.ALL_BOUNDS,
    needs=(needs.transform("compile"), needs.compiler, needs.same_process),
    max_examples=20,
    cost="costly",
)
def test_law_compiled(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Under torch.compile D~ and its gradients are within their bounds, at lengths of one block too.

    Why: What the compiler fuses, specialises or reorders is another kernel than the one tested.
    Bound: section 3.
    """
    judge_compiled(subject, lambda compiled: require_right(compiled, gates, cotangent))


@law(
    FEW,
    bound=dtilde_bounds.forward_bound,
    needs=(needs.transform("export"), needs.same_process),
    max_examples=1,
    cost="costly",
)
def test_law_exported(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Exported by torch.export, D~ of other gates of the same shape is within its bound.

    Why: Export freezes whatever Python computed from the example.
    Bound: section 3, forward.
    """
    igate, fgate = (gate.to(subject.device) for gate in gates.dense())
    run = exported(subject, igate, fgate).forward_of(*(gate.flip(2).contiguous() for gate in (igate, fgate)))
    require_within(run.dtilde, subject.expected_dtilde(run))
