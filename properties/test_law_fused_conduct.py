"""Laws of conduct of fused kernels: the same answer twice, nobody else's memory read or written."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import Gates, Probe
from dmat.strategies.probe_cases import PROBED, RIVALS
from dmat.testing.contract import FUSED
from dmat.testing.law import law
from dmat.testing.memory import uninitialised
from dmat.testing.readout.bounds import FusedBounds
from dmat.testing.readout.subject import FusedGradients, FusedSubject
from dmat.testing.verdict import as_array, require_same, require_within


def outcome(
    subject: FusedSubject, gates: Gates, probe: Probe, filler: float = float("nan")
) -> FusedGradients:
    """Call, and pull back where there are gradients."""
    needed = ("q", "k", "v", "i", "g") if subject.fused.has_gradients else ()
    return subject.pull_of(subject.inputs(gates, probe, filler), probe, needed)


def require_same_call(
    subject: FusedSubject, after: FusedGradients, before: FusedGradients, note: str
) -> None:
    """Require the same output and the same gradients, bit for bit."""
    require_same("o", after.run.o, before.run.o, note=note)
    for name in before.tensors:
        require_same(subject.gradient_name(name), after.of(name), before.of(name), note=note)


@law(PROBED, order=17, of=FUSED)
def test_law_inputs_untouched(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The call, and its backward, write to no input.

    Why: Autograd and the caller still need them.
    Bound: zero.
    """
    inputs = subject.inputs(gates, probe)
    before = {name: as_array(x) for name, x in inputs.named.items()}
    needed = ("q", "k", "v", "i", "g") if subject.fused.has_gradients else ()
    subject.pull_of(inputs, probe, needed)
    for name, x in inputs.named.items():
        note = "the input after the call, against before"
        require_same(subject.letters[name], as_array(x), before[name], note=note)


@law(PROBED, order=23, of=FUSED, needs=(needs.gradients,))
def test_law_cotangent_untouched(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The backward call does not write to its cotangent.

    Why: The cotangent belongs to the graph behind; scratch work in it corrupts another gradient.
    Bound: zero.
    """
    inputs = subject.inputs(gates, probe)
    W = subject.cotangent(inputs, probe)
    gradients = subject.pull_of(inputs, probe, W=W)
    require_same("W", as_array(W), gradients.W, note="the cotangent after the backward call, against before")


@law(PROBED, order=24, of=FUSED, needs=(needs.gradients,))
def test_law_one_sided(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Output and gradients are the same where some inputs need none, and in training, within their bounds.

    Why: With an input frozen a backward takes another path, and returns one gradient in the other's place.
    Bound: docs/fused.md section 2.
    """
    inputs = subject.inputs(gates, probe)
    taken = list(inputs.named)
    for asked in ("qk", "v", "ig"):
        needed = [name for name in asked if name in taken]
        if not needed:
            continue
        gradients = subject.pull_of(inputs, probe, needed)
        note = f"only {', '.join(subject.letters[name] for name in needed)} asked for gradients"
        require_within(gradients.run.o, subject.expected(gradients.run, note))
        for name in needs.told(subject, needed) if needs.one_law_serves(subject, probe) else ():
            require_within(gradients.of(name), subject.expected_gradient(gradients, name, note))


@law(RIVALS, order=18, of=FUSED)
def test_law_results_kept(subject: FusedSubject, gates: Gates, probe: Probe, rival: Gates) -> None:
    """A later call, of the same shape or on the same memory, changes no earlier result and is not one.

    Why: A static output buffer, or a cache keyed by shape or address, gives yesterday's answer.
    Bound: zero for the earlier result; docs/fused.md section 2 for the later.
    """
    inputs = subject.inputs(gates, probe)
    first = subject.run_of(inputs)
    kept = first.o
    for x, other in zip((inputs.i, inputs.g), rival.dense(), strict=True):
        if x is not None:
            x.copy_(other)
    for name in "qkv":
        if name != "k" or not subject.fused.distinct_keys:
            inputs.named[name].mul_(2)
    second = subject.run_of(inputs)
    require_same("o", as_array(first.output), kept, note="the first result after a second call")
    require_within(second.o, subject.expected(second, "the second call"))


@law(PROBED, order=19, of=FUSED, needs=(needs.determinism,))
def test_law_repeatable(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """The same call gives the same bits, gradients too.

    Why: Atomic additions make every bug after them unrepeatable.
    Bound: zero.
    """
    first = outcome(subject, gates, probe)
    require_same_call(subject, outcome(subject, gates, probe), first, "the second of two equal calls")


@law(PROBED, order=12, of=FUSED, needs=(needs.determinism,))
def test_law_surroundings_unread(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Nothing outside the given views is read: NaN or a large number around them changes nothing.

    Why: A read past the view is right until the allocator moves.
    Bound: zero.
    """
    large = torch.finfo(getattr(torch, subject.dtype)).max / 4
    runs = [outcome(subject, gates, probe, filler) for filler in (float("nan"), large)]
    require_same_call(subject, runs[1], runs[0], "a large number around the inputs, against NaN around them")


@law(PROBED, order=12, of=FUSED, needs=(needs.determinism,))
def test_law_uninitialised_unread(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Uninitialised memory is not read: NaN or a large number in it changes nothing.

    Why: Padding from torch.empty is zero in every test and a NaN in the long run.
    Bound: zero.
    """
    runs = []
    for filler in (float("nan"), 1e4):
        with uninitialised(filler, subject.transcript):
            runs.append(outcome(subject, gates, probe))
    require_same_call(subject, runs[1], runs[0], "1e4 in what torch.empty returns, against NaN in it")


@law(PROBED, order=26, of=FUSED, needs=(needs.determinism, needs.homogeneous))
def test_law_scaling(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Twice the values give twice the output, bit for bit where nothing is subnormal or overflows.

    Why: Clipping, thresholds and sums in a half type do not scale.
    Bound: zero where no result is subnormal or overflows.
    """
    inputs = subject.inputs(gates, probe)
    once = subject.run_of(inputs)
    twice = subject.run_of(inputs.with_(v=2 * inputs.v))
    rounding = subject.fused_rounding
    expected = subject.expected(twice)
    bounds = FusedBounds(subject.truth(twice.seen), subject.fused, rounding)
    normal = max(x.smallest_normal for x in (rounding.output, rounding.accumulator, rounding.operands))
    size, S = np.abs(once.o), gates.shape[-1]
    # In a stabilised kernel o e^-m is subnormal before o is.
    enough = (size >= (S + 4) * 64 * normal * bounds.grown) & (2 * size <= rounding.output.largest)
    where = enough & ~expected.bound.overflow & ~expected.bound.free
    require_same("o", twice.o, once.o, where, "the output for 2 v, against twice that for v", times=2)


@law(PROBED, order=25, of=FUSED, needs=(needs.gradients,))
def test_law_retained_graph(subject: FusedSubject, gates: Gates, probe: Probe) -> None:
    """Backward twice through a retained graph gives the same gradients, to the bit if deterministic.

    Why: A buffer consumed by the first backward makes the second one wrong.
    Bound: zero where deterministic.
    """
    inputs = subject.inputs(gates, probe)
    first, second = (subject.pull_of(inputs, probe, times=times) for times in (1, 2))
    if subject.contract.deterministic:
        require_same_call(subject, second, first, "the second backward through one graph, against the first")
