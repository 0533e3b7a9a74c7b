"""Laws of conduct of fused kernels: equal calls give equal results, and stray memory is not accessed."""

from __future__ import annotations

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import PROBED
from dmat.strategies.cases.handed import CUTS
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import fused as fused_bounds
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import FUSED
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import LAST, NAMES
from dmat.testing.kernel.turns import STATE_LAYOUTS, tensors_of, with_four_axes
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require_same, require_within


@law(PROBED, bound=EQUAL_BITS, kinds=(FUSED,))
def test_law_inputs_untouched(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The call, and its backward, write to no input.

    Why: Autograd and the caller still need them.
    Bound: zero.
    """
    inputs = subject.inputs(gates, qkv)
    before = {name: subject.read(x) for name, x in inputs.named.items()}
    needed = NAMES if subject.contract.has_gradients else ()
    subject.pull_of(inputs, qkv, needed)
    for name, x in inputs.named.items():
        note = "the input after the call, against before"
        require_same(subject.letters[name], subject.read(x), before[name], note=note)


@law(
    PROBED,
    bound=(*fused_bounds.ALL_BOUNDS, DeltaBounds.output, *delta_bounds.GRADIENT_BOUNDS),
    kinds=(FUSED,),
    needs=(needs.gradients,),
)
def test_law_one_sided(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """Output and gradients are the same where some inputs need none, and in training, within their bounds.

    Why: With an input frozen a backward takes another path, and returns one gradient in the other's place.
    Bound: docs/fused.md section 2.
    """
    inputs = subject.inputs(gates, qkv)
    taken = list(inputs.named)
    for asked in (("q", "k"), ("v",), ("i", "g"), ("b",), PARAMETERS, ("z",)):
        needed = [name for name in asked if name in taken]
        if not needed:
            continue
        gradients = subject.pull_of(inputs, qkv, needed)
        note = f"only {', '.join(subject.letters[name] for name in needed)} asked for gradients"
        require_within(gradients.run.o, subject.expected(gradients.run, note))
        for name in subject.distinct_values(needed) if subject.defines_gradients(qkv) else ():
            require_within(gradients.of(name), subject.expected_gradient(gradients, name, note))


@law(
    PROBED,
    bound=(EQUAL_BITS, FusedBounds.output, *delta_bounds.RESULTS),
    kinds=(FUSED,),
    needs=(needs.determinism, needs.homogeneous),
)
def test_law_scaling(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """Twice the values give twice the output, bit for bit where nothing is subnormal or overflows.

    Why: Clipping, thresholds and sums in a half type do not scale.
    Bound: zero where no result is subnormal or overflows.
    """
    inputs = subject.inputs(gates, qkv)
    once = subject.run_of(inputs)
    twice = subject.run_of(inputs.with_(v=2 * inputs.v))
    for name, where in subject.scaled(once, twice).items():
        note = f"{name} for 2 v, against twice that for v"
        require_same(name, twice.of(name), once.of(name), where, note, times=2)


@law(
    CUTS,
    bound=(EQUAL_BITS, FusedBounds.output, DeltaBounds.output),
    kinds=(FUSED,),
    needs=(needs.states,),
)
def test_law_state_untouched(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int) -> None:
    """A call, and its backward, write to no state that they are given; going on from it twice is the same.

    Why: Two answers to one prompt go on from one state; the first must not be what the second goes on from.
        With updates="state" each call gets a copy.
    Bound: zero for the state, and between the two calls if deterministic; else docs/fused.md section 2.
    """
    inputs, S = subject.inputs(gates, qkv), gates.shape[-1]
    _, state = subject.call_with_state(inputs.part(0, cut), inputs.s)
    behind, tensors = inputs.part(cut, S), tensors_of(state)
    before = [with_four_axes(subject.read(x)) for x in tensors]
    once, _ = subject.call_with_state(behind, state)
    first = subject.read(once)
    if subject.contract.has_gradients:
        W, more = subject.cotangent(inputs, qkv)[:, :, cut:], {str(subject.contract.states): state}
        subject.pull_of(behind, qkv, W=W, call_inputs=subject.read_inputs(behind), more=more)
    for x, was in zip(tensors, before, strict=True):
        note = "a state after a call that was given it, against before"
        require_same(LAST, with_four_axes(subject.read(x)), was, note=note)
    twice, _ = subject.call_with_state(behind, state)
    note = "the second call that goes on from one state, against the first"
    if subject.contract.deterministic:
        require_same("o", subject.read(twice), first, note=note)
    expected = subject.expected_of(subject.read_inputs(inputs, (0, cut)), state=state)
    rows = (slice(None), slice(None), slice(cut, None), slice(None))
    require_within(subject.read(twice), expected.part(rows).noted(note))


@law(
    CUTS,
    bound=(FusedBounds.output, *delta_bounds.RESULTS),
    kinds=(FUSED,),
    needs=(needs.states, needs.strided),
)
def test_law_state_layouts(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int) -> None:
    """A state that is transposed, strided or offset in memory, NaN around it, is read rightly, or refused.

    Why: A state made contiguous, and read by the strides that it had; a slot of a cache has its own.
    Bound: docs/fused.md section 2, the output.
    """
    inputs, S = subject.inputs(gates, qkv), gates.shape[-1]
    call_inputs = subject.read_inputs(inputs, (0, cut))
    _, state = subject.call_with_state(inputs.part(0, cut), inputs.s)
    expected = subject.expected_of(call_inputs, state=state)
    rows = (slice(None), slice(None), slice(cut, None), slice(None))
    for layout in STATE_LAYOUTS:
        moved = subject.laid_out(state, layout)
        try:
            output, last = subject.call_with_state(inputs.part(cut, S), moved)
        except LawBroken as broken:
            if broken.finding.what != "raised":
                raise
            subject.remarks.add(f"a state that is {layout} in memory is refused")
            continue
        note = f"t counts from the cut at {cut}, where the state was handed over {layout} in memory"
        subject.observe(require_within(subject.read(output), expected.part(rows).noted(note)))
        subject.require_last_state(last, call_inputs)
