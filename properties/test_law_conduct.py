"""Laws of conduct: equal calls give equal results, no stray memory is accessed, nothing kept or shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import Constant, Cotangent, Gates
from dmat.strategies.cases.dtilde import COTANGENTS, FEW, GATES, POWERS_OF_TWO, WINDOWS
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds import fused as fused_bounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS, NO_BOUND
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.kernel import protected
from dmat.testing.kernel.call import PulledBack
from dmat.testing.kernel.memory import uninitialised
from dmat.testing.kernel.runtime import at_the_edge
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.kinds import BACKWARD, BOTH, RIVAL
from dmat.testing.law.law import law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.require import require, require_same, require_within

CALLED_TWICE = {DTILDE: (needs.gradients, needs.determinism), FUSED: (needs.determinism,)}
ALLOCATES = {kind: (*needed, needs.same_process) for kind, needed in CALLED_TWICE.items()}


def outcome(subject: Subject, call: Case, poison: float = float("nan")) -> PulledBack:
    """Call, and pull back where there are gradients."""
    return subject.pull_on(subject.build(call, poison), call, poison=poison)[0]


def require_same_results(subject: Subject, after: PulledBack, before: PulledBack, note: str) -> None:
    """Require the same outputs and the same gradients, bit for bit."""
    for name in before.run.outputs:
        require_same(name, after.run.of(name), before.run.of(name), note=note)
    for name in before.gradients:
        require_same(subject.gradient_name(name), after.of(name), before.of(name), note=note)


@law(BACKWARD, bound=EQUAL_BITS, needs=CALLED_TWICE, kinds=BOTH)
def test_law_surroundings_unread(subject: Subject, call: Case) -> None:
    """Nothing outside the given views is read: NaN or a large number around them changes nothing.

    Why: A read past the view is right until the allocator moves.
    Bound: zero.
    """
    large = torch.finfo(getattr(torch, subject.dtype)).max / 4
    runs = [outcome(subject, call, poison) for poison in (float("nan"), large)]
    note = "a large number around the inputs, against NaN around them"
    require_same_results(subject, runs[1], runs[0], note)


@law(BACKWARD, bound=EQUAL_BITS, needs=ALLOCATES, kinds=BOTH)
def test_law_uninitialised_unread(subject: Subject, call: Case) -> None:
    """Uninitialised memory is not read: NaN or a large number in it changes nothing.

    Why: Padding from torch.empty is zero in every test and a NaN in the long run.
    Bound: zero.
    """
    runs = []
    for poison in (float("nan"), 1e4):
        with uninitialised(poison, subject.recorder):
            runs.append(outcome(subject, call))
    require_same_results(subject, runs[1], runs[0], "1e4 in what torch.empty returns, against NaN in it")


@law(GATES, bound=EQUAL_BITS)
def test_law_inputs_untouched(subject: DtildeSubject, gates: Gates) -> None:
    """The call writes to no gate, and its output shares no memory with one.

    Why: Autograd and the caller still need the gates; a view of them returned changes with them.
    Bound: zero.
    """
    inputs = gates.build(subject.device)
    before = [subject.read(gate) for gate in inputs]
    output = subject.call(*inputs)
    for name, gate, was in zip(("igate_preact", "fgate_preact"), inputs, before, strict=True):
        require_same(name, subject.read(gate), was, note="the input after the call, against before")
        shared = output.untyped_storage().data_ptr() == gate.untyped_storage().data_ptr()
        own, found = not shared or output.numel() == 0, f"shares memory with {name}"
        require(own, "D~", found, "its own memory", what="memory", detail=name)


@law(
    RIVAL,
    bound={
        DTILDE: (EQUAL_BITS, dtilde_bounds.forward_bound),
        FUSED: (EQUAL_BITS, FusedBounds.output, *delta_bounds.RESULTS),
    },
    kinds=BOTH,
)
def test_law_results_kept(subject: Subject, call: Case, rival: Gates) -> None:
    """A later call, of the same shape or on the same memory, changes no earlier result and is not one.

    Why: A static output buffer, or a cache keyed by shape or address, gives yesterday's answer.
    Bound: zero for the earlier result; {section 3, forward, // docs/fused.md section 2} for the later.
    """
    inputs = subject.build(call)
    first = subject.forward_on(inputs)
    kept = {name: first.of(name) for name in first.outputs}
    subject.overwrite(inputs, rival)
    second = subject.forward_on(inputs)
    for name, must in subject.expected_outputs(second, "the second call").items():
        now, note = subject.read(first.outputs[name]), "the first result after a second call"
        require_same(name, now, kept[name], note=note)
        require_within(second.of(name), must)


@law(BACKWARD, bound=EQUAL_BITS, needs=CALLED_TWICE, kinds=BOTH)
def test_law_repeatable(subject: Subject, call: Case) -> None:
    """The same call gives the same bits, gradients too.

    Why: Atomic additions make every bug after them unrepeatable.
    Bound: zero.
    """
    first = outcome(subject, call)
    require_same_results(subject, outcome(subject, call), first, "the second of two equal calls")


@law(BACKWARD, bound=EQUAL_BITS, needs=(needs.gradients,), kinds=BOTH)
def test_law_cotangent_untouched(subject: Subject, call: Case) -> None:
    """The backward call {writes to no gate and not // does not write} to its cotangent.

    Why: The cotangent belongs to the graph behind; scratch work in it corrupts another gradient.
    Bound: zero.
    """
    inputs = subject.build(call)
    cotangent = subject.cotangent_of(inputs, call)
    lent = subject.lent(inputs, cotangent)
    before = {name: subject.read(x) for name, x in lent.items()}
    subject.pull_on(inputs, call, cotangent=cotangent)
    for name, x in lent.items():
        note = "the input after the backward call, against before"
        require_same(name, subject.read(x), before[name], note=note)


@law(COTANGENTS, bound=dtilde_bounds.GRADIENT_BOUNDS, needs=(needs.gradients,))
def test_law_one_sided(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """A gate's gradient is the same whether or not the other gate needs one, within its bound.

    Why: With one gate frozen a backward takes another path, and returns one gradient in the other's
        place.
    Bound: section 3, gradients.
    """
    igate, fgate = gates.build(subject.device)
    G = cotangent.build(gates, subject.device)
    both = subject.gradients_of(igate, fgate, G)
    expected = subject.expected_gradients(both)
    for needed, name, must in zip((0, 1), ("di", "df"), expected, strict=True):
        alone = subject.gradients_of(igate, fgate, G, needed=(needed,))
        require_within(getattr(alone, name), replace(must, note=f"only {name} was asked for"))


@law(
    BACKWARD,
    bound={
        DTILDE: (EQUAL_BITS, *dtilde_bounds.GRADIENT_BOUNDS),
        FUSED: (EQUAL_BITS, *fused_bounds.GRADIENT_BOUNDS, *delta_bounds.GRADIENT_BOUNDS),
    },
    needs=(needs.gradients,),
    kinds=BOTH,
)
def test_law_retained_graph(subject: Subject, call: Case) -> None:
    """Backward twice through a retained graph gives the same gradients, to the bit if deterministic.

    Why: A buffer consumed by the first backward makes the second one wrong.
    Bound: zero where deterministic; {section 3 // docs/fused.md section 2}, gradients.
    """
    first, second = subject.pull_on(subject.build(call), call, times=2)
    if subject.contract.deterministic:
        note = "the second backward through one graph, against the first"
        require_same_results(subject, second, first, note)
    for name in subject.judged_gradients(call):
        require_within(second.of(name), subject.gradient_must_be(second, name))


@law(
    POWERS_OF_TWO,
    bound=(EQUAL_BITS, *dtilde_bounds.GRADIENT_BOUNDS),
    needs=(needs.gradients, needs.determinism),
)
def test_law_scaling(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """Twice the cotangent gives twice the gradients, bit for bit where nothing is subnormal or overflows.

    Why: Loss scaling multiplies G by powers of two: clipping, thresholds and half sums do not scale.
    Bound: zero where no result is subnormal or overflows.
    """
    igate, fgate = gates.build(subject.device)
    G = cotangent.build(gates, subject.device)
    once = subject.gradients_of(igate, fgate, G)
    twice = subject.gradients_of(igate, fgate, 2 * G)
    normal = max(subject.rounding.eta, subject.rounding.output.smallest_normal)
    smallest_term = 2.0**-8 * subject.backward(once).terms.rate.hi  # of those that df may sum
    for name, least, must in zip(
        ("di", "df"), (np.ones(()), smallest_term), subject.expected_gradients(twice), strict=True
    ):
        single, double = getattr(once, name), getattr(twice, name)
        size = np.abs(single)
        homogeneous = (size >= 2 * normal) & (2 * size <= torch.finfo(G.dtype).max) & (least >= 2 * normal)
        homogeneous &= ~must.bound.overflow
        note = "the gradient for 2 G, against twice that for G"
        require_same(name, double, single, homogeneous, note, times=2)


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound), needs=(needs.gradients, needs.determinism))
def test_law_replay(subject: DtildeSubject, gates: Gates, rival: Gates) -> None:
    """Of eleven calls of one shape, every second one on other gates, each answers for its own gates.

    Why: A kernel can be right when it is tested and wrong when it is cached, autotuned or warmed up.
    Bound: zero between equal calls; section 3, forward, for the last.
    """
    G = Cotangent(Constant(1.0)).build(gates, subject.device)
    first = subject.gradients_of(*gates.build(subject.device), G)
    for number in range(1, 11):
        again = subject.gradients_of(*(gates if number % 2 == 0 else rival).build(subject.device), G)
        if number % 2 == 0:
            require_same_results(
                subject, again, first, f"call {number + 1} of 11 for the same inputs, against the first"
            )
    require_within(again.run.dtilde, subject.expected_dtilde(again.run))


@law(FEW, bound=NO_BOUND, needs=(needs.protected_pages, needs.same_process), max_examples=10, cost="costly")
def test_law_protected_pages(subject: DtildeSubject, gates: Gates, cotangent: Cotangent) -> None:
    """No call touches memory past either end of its inputs: none dies of a protected page there.

    Why: A stray read whose value is masked away is invisible, until there is no memory behind.
    Bound: none: the process lives, or dies.
    """
    dense = [*gates.dense(), cotangent.build(gates)]
    edges = [[at_the_edge(x, side) for x in dense] for side in protected.SIDES]
    if subject.killed(*edges):
        for side, inputs in zip(protected.SIDES, edges, strict=True):
            killed = subject.killed(inputs)
            note = f"the inputs, contiguous, touch a page at their {side} that may not be touched"
            require(killed is None, "call", f"process died: {killed}", "a result", note, what="died")
