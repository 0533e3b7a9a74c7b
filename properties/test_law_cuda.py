"""Laws of accelerators, as CUDA: no waiting, graphs, streams, past 2^31 entries, memory, the CPU's answer."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import Cotangent, Gates
from dmat.strategies.cases.dtilde import FEW, GATES, HUGE, LARGE
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds.named import EQUAL_BITS, NO_BOUND
from dmat.testing.devices import in_words
from dmat.testing.errors import Refused
from dmat.testing.kernel.dtilde import Gradients, Run
from dmat.testing.law.cuda import (
    WARM_UPS,
    captured,
    forward_and_backward,
    last_row_cotangent,
    no_synchronisation,
    on_a_side_stream,
    peak_beyond,
    refused_if_too_large,
    spaced_gates,
)
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import law
from dmat.testing.oracle.integers import exact_rows
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require, require_agreement, require_same, require_within

Results = tuple[torch.Tensor, ...]


def require_right(subject: DtildeSubject, gates: Results, G: torch.Tensor, results: Results) -> None:
    """Require D~ and, where there are some, both gradients of these gates within their bounds."""
    igate, fgate = (subject.read(gate)[..., 0] for gate in gates)
    run = Run(igate, fgate, results[0], subject.read)
    require_within(run.dtilde, subject.expected_dtilde(run))
    if len(results) == 3:
        subject.require_gradients(Gradients(run, subject.read(G), (results[1], results[2])))


@law(FEW, bound=NO_BOUND, needs=(needs.sync_mode, needs.same_process), max_examples=5, cost="costly")
def test_law_no_synchronisation(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """After a warm-up, neither the call nor its backward makes the host wait for the device.

    Why: One .item() in the forward stalls the whole training step.
    Bound: none.
    """
    inputs, G = gates.build(subject.device), cotangent.build(gates, subject.device)
    for _ in range(WARM_UPS):
        forward_and_backward(subject, inputs, G)
    with no_synchronisation(subject.device, subject.recorder):
        forward_and_backward(subject, inputs, G)


@law(
    FEW,
    bound=dtilde_bounds.ALL_BOUNDS,
    needs=(needs.graphs, needs.same_process),
    max_examples=5,
    cost="costly",
)
def test_law_graph_capture(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Call and backward can be captured in a graph, as CUDA has, and its replay is right for other gates.

    Why: Inference runs in graphs: what is computed on the host is frozen in them.
    Bound: section 3.
    """
    inputs = tuple(gate.to(subject.device) for gate in gates.dense())
    G = cotangent.build(gates, subject.device)
    replay = captured(subject, inputs, G)
    for gate in inputs:
        gate.copy_(gate.flip(2).clone())
    require_right(subject, inputs, G, replay())


@law(
    FEW,
    bound=dtilde_bounds.ALL_BOUNDS,
    needs=(needs.streams, needs.same_process),
    max_examples=5,
    cost="costly",
)
def test_law_side_stream(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """On a stream of its own the call reads its inputs when that stream has written them.

    Why: A kernel launched on the wrong stream reads what is not yet written.
    Bound: section 3.
    """
    inputs, G = gates.build(subject.device), cotangent.build(gates, subject.device)
    require_right(subject, inputs, G, on_a_side_stream(subject, inputs, G))


@law(GATES, bound=dtilde_bounds.forward_bound, needs=(needs.accelerator, needs.cpu_too))
def test_law_device_agreement(subject: DtildeSubject, gates: Gates) -> None:
    """An accelerator and the CPU agree within the bounds of both.

    Why: Wrong on one architecture only is wrong on the user's.
    Bound: both bounds of section 3, forward.
    """
    ours = subject.forward(gates)
    other = subject.on("cpu")
    try:
        theirs = other.forward(gates)
    except LawBroken as broken:
        raise Refused(f"the CPU's call {broken.finding.computed}") from broken
    expected, note = subject.expected_dtilde(ours), f"{in_words(subject.device)}, against the CPU"
    require_agreement(ours.dtilde, expected, theirs.dtilde, other.expected_dtilde(theirs), note)


@law(
    LARGE, bound=NO_BOUND, needs=(needs.peak_of_device, needs.peak_memory, needs.same_process), cost="costly"
)
def test_law_peak_memory(subject: DtildeSubject, shape: tuple[int, int, int]) -> None:
    """At the peak, call and backward take no more memory beyond their results than the contract states.

    Why: The output alone is S squared; one hidden copy of it halves the longest sequence.
    Bound: the contract's peak_memory, times the bytes of the output.
    """
    dtype = getattr(torch, subject.dtype)
    inputs = spaced_gates(shape, dtype, subject.device)
    G = torch.ones((), dtype=dtype, device=subject.device).expand(*shape, shape[-1])
    forward_and_backward(subject, inputs, G)
    taken = peak_beyond(subject.device, lambda: forward_and_backward(subject, inputs, G), subject.recorder)
    output = shape[0] * shape[1] * shape[2] ** 2 * inputs[0].element_size()
    stated = subject.contract.peak_memory or 0.0
    most = f"{stated} * {output}"
    allowed = f"at most {stated} x {output} bytes"
    require(taken <= stated * output, "peak memory", f"{taken} bytes", allowed, what="memory", detail=most)


@law(HUGE, bound=EQUAL_BITS, needs=(needs.accelerator, needs.exact_sums, needs.same_process), cost="costly")
def test_law_past_2_31(subject: DtildeSubject, shape: tuple[int, int, int]) -> None:
    """Past 2^31 entries D~ and its gradients are exact on integers, to the last head and row.

    Why: Offsets of 32 bits wrap at the lengths that the kernel was written for.
    Bound: zero (section 4).
    """
    dtype, S = getattr(torch, subject.dtype), shape[-1]
    with refused_if_too_large(subject.device, f"D~ of {shape} in {subject.dtype}"):
        G = last_row_cotangent(shape, dtype, subject.device, subject.recorder)
        results = forward_and_backward(subject, spaced_gates(shape, dtype, subject.device), G)
        for head in sorted({0, shape[1] // 2, shape[1] - 1}):
            for rows in (slice(0, 64), slice(max(0, S - 64), S)):
                note = f"head {head}, rows from {rows.start} on"
                require_same("D~", subject.read(results[0][0, head, rows]), exact_rows(S, rows), note=note)
            truths = np.ones(S), np.arange(S, dtype=np.float64)
            for name, found, truth in zip(("di", "df"), results[1:], truths, strict=False):
                exact = truth <= 1 / subject.rounding.u
                require_same(name, subject.read(found[0, head, :, 0]), truth, exact, f"head {head}")
