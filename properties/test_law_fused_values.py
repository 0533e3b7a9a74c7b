"""Laws of values of fused kernels: every output is within its bound, in one call, in two, and packed."""

from __future__ import annotations

from itertools import pairwise

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.equal import EQUAL
from dmat.strategies.cases.fused import PACKED, PROBED, sequence_ends
from dmat.strategies.cases.handed import CHUNK_STATES, PACKED_STATES, begins_of, spans_of
from dmat.strategies.cases.padded import PADDED
from dmat.strategies.cases.sizes import CUTS_SIZES, DENSE_SIZES
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import fused as fused_bounds
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FUSED
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import FusedGradients
from dmat.testing.kernel.turns import Turn, shown_turns
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.law.padding import require as padding
from dmat.testing.law.padding.call import Padded
from dmat.testing.verdict.require import require_kinds, require_within


@law(DENSE_SIZES, bound=(FusedBounds.output, *delta_bounds.RESULTS), kinds=(FUSED,))
def test_law_dense(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """Every output of dense q, k, v is within the bound: o[t] is the sum of all its terms.

    Of a delta rule that begins with a state, its last state too.

    Why: Channels left out, a tile transposed, a head's width: one channel cannot show them.
    Bound: docs/fused.md section 2, the output.
    """
    run = subject.run(gates, qkv)
    for name, must in subject.expected_outputs(run).items():
        subject.observe(require_within(run.of(name), must))


@law(PROBED, bound=(FusedBounds.output, *delta_bounds.RESULTS), kinds=(FUSED,))
def test_law_finite(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """Finite inputs give finite outputs, unless they overflow.

    Why: exp of a positive number before the mask is inf, and inf times 0 is NaN.
    Bound: none but overflow.
    """
    run = subject.run(gates, qkv)
    for name, must in subject.expected_outputs(run).items():
        require_kinds(run.of(name), must)


@law(
    EQUAL,
    bound=fused_bounds.ALL_BOUNDS,
    kinds=(FUSED,),
    needs=(needs.half_operands,),
    max_examples=4,
)
def test_law_equal_terms(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """Long sums of equal terms are within their bounds: outputs, outputs behind a state, and all gradients.

    Why: Operands may be rounded to a half type, sums may not. Where all terms are 0.7, each step of a half
        sum errs to the same side, and bfloat16 stops at 256.
    Bound: docs/fused.md section 2; 0 is added for the length of a sum that is accumulated wide.
    """
    inputs, S = subject.inputs(gates, qkv), gates.shape[-1]
    subject.observe(
        require_within(subject.run_of(inputs).o, subject.expected_of(subject.read_inputs(inputs)))
    )
    if subject.contract.has_gradients and subject.defines_gradients(qkv):
        _require_gradients(subject.pull_of(inputs, qkv), subject, 0, "")
    cut = S // 2 // subject.contract.seq_multiple_of * subject.contract.seq_multiple_of
    if subject.contract.states and all(0 < n and subject.domain.has_length(n) for n in (cut, S - cut)):
        _, state = subject.call_with_state(inputs.part(0, cut), None)
        second, _ = subject.call_with_state(inputs.part(cut, S), state)
        expected = subject.expected_of(subject.read_inputs(inputs, (0, cut)), state=state)
        part = expected.part((slice(None), slice(None), slice(cut, S), slice(None)))
        subject.observe(require_within(subject.read(second), part.noted(f"after the cut at {cut}")))


def _require_gradients(gradients: FusedGradients, subject: FusedSubject, start: int, note: str) -> None:
    """Require the gradients of what a call takes: the times from start on, of all that its truth has.

    Parameters of the gates have no times: they are judged where all times are.
    """
    for name in subject.distinct_values(gradients.tensors):
        if start and name in PARAMETERS:
            continue
        expected = subject.expected_gradient(gradients, name, note)
        further = len(expected.kind.shape) - 3
        expected = expected.part((slice(None), slice(None), slice(start, None), *[slice(None)] * further))
        subject.observe(require_within(gradients.of(name), expected.noted(expected.note or note)))


@law(
    CUTS_SIZES,
    bound=(
        FusedBounds.output,
        *fused_bounds.GRADIENT_BOUNDS,
        *delta_bounds.RESULTS,
        *delta_bounds.GRADIENT_BOUNDS,
        DeltaBounds.first_state,
    ),
    kinds=(FUSED,),
    needs=(needs.states,),
)
def test_law_handover(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int) -> None:
    """Running to a cut, handing the state over and going on gives the whole, and its gradients.

    Why: Only here is the first forget gate read, and the carry of the last chunk: decoding does it always.
        A backward that does not know of a state that it was given, or returned, lacks what that adds. Where
        lengths allow, the state is handed over twice.
    Bound: docs/fused.md section 2, chunks counted from each call's start.
    """
    inputs, S = subject.inputs(gates, qkv), gates.shape[-1]
    begins, states = begins_of(S, cut, subject.domain), list[object]([inputs.s])
    call_inputs, outputs = subject.read_inputs(inputs, begins), []
    for start, end in pairwise((*begins, S)):
        output, state = subject.call_with_state(inputs.part(start, end), states[-1])
        outputs.append((output, slice(start, end)))
        states.append(state)
    subject.remark_on_state(states[1], inputs, qkv)
    expected = subject.expected_of(call_inputs, state=states)
    for output, times in outputs:
        before = f"rows of the call before the cut at {cut}"
        note = f"t counts from the cut at {times.start}, where the state was handed over"
        part = expected.part((slice(None), slice(None), times, slice(None)))
        must = part.noted(note if times.start else before)
        subject.observe(require_within(subject.read(output), must))
    subject.require_last_state(states[-1], call_inputs)
    if subject.defines_gradients(qkv) and subject.contract.has_gradients:
        given = " and ".join(f"the state of the times before {begin}" for begin in begins[1:])
        through = f"through all {len(begins)} calls, which were given {given}"
        note = through if subject.contract.state_gradients else f"of the call that was given {given}"
        gradients = subject.pull_going_on(inputs, qkv, begins)
        _require_gradients(gradients, subject, subject.first_pulled(begins), note)


@law(
    PACKED,
    bound=(*fused_bounds.ALL_BOUNDS, DeltaBounds.output, *delta_bounds.GRADIENT_BOUNDS),
    kinds=(FUSED,),
    needs=(needs.packed,),
)
def test_law_packed(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int, t: int) -> None:
    """Sequences packed one behind another do not see each other, nor do their gradients.

    Why: A carry that is not reset mixes two documents; chunks that start anew lose a tail.
    Bound: docs/fused.md section 2, chunks counted from each sequence's start; 0 across.
    """
    S = gates.shape[-1]
    starts = ends = sequence_ends(S, cut, t)
    if subject.contract.zero_length and cut == t:
        ends = sorted([*ends, min(cut, S)])  # a sequence of none among them
    inputs, note = subject.inputs(gates, qkv), f"{subject.contract.packed} = {ends}"
    call_inputs = subject.read_inputs(inputs, tuple(n for n in starts if n < S), packed=True)
    output = subject.call_packed(inputs, ends)
    subject.observe(require_within(subject.read(output), subject.expected_of(call_inputs, note)))
    if subject.defines_gradients(qkv) and subject.contract.has_gradients:
        gradients = subject.pull_packed(inputs, qkv, call_inputs, ends)
        _require_gradients(gradients, subject, 0, note)


@law(
    PACKED_STATES,
    bound=(*fused_bounds.ALL_BOUNDS, *delta_bounds.RESULTS, *delta_bounds.GRADIENT_BOUNDS),
    kinds=(FUSED,),
    needs=(needs.states, needs.packed, needs.packed_states),
)
def test_law_packed_states(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int, t: int) -> None:
    """Packed sequences go on, each from its own state, and return their states; so do gradients, backwards.

    Why: A state that enters in the middle of a chunk is decayed from the sequence's start, not from the
        chunk's; each sequence has its own row; what goes back through a state is as easily forgotten. So
        sequences begin anywhere in a chunk, and some states are zero.
    Bound: docs/fused.md section 2, a state handed over between calls; 0 across.
    """
    turns = spans_of(gates.shape[-1], cut, t, subject.domain)
    assert turns is not None
    inputs = subject.inputs(gates, qkv).with_(s=None)
    subject.write_nothing_at_first(inputs, turns)
    call_inputs = subject.read_turns(inputs, turns)
    note = f"t counts all times; the times of each sequence in call after call: {shown_turns(turns)}"
    output, states = subject.called_in_turn(inputs, {}, call_inputs)
    expected = subject.expected_of(call_inputs, note, state=states)
    subject.observe(require_within(subject.read(output), expected))
    subject.require_last_states(states[-1], inputs, turns)
    differentiable = subject.contract.has_gradients and subject.contract.state_gradients
    if differentiable and subject.defines_gradients(qkv):
        gradients = subject.pull_of(inputs, qkv, call_inputs=call_inputs)
        _require_gradients(gradients, subject, 0, f"through all calls; {note}")


@law(
    CHUNK_STATES,
    bound=(FusedBounds.output, DeltaBounds.output),
    kinds=(FUSED,),
    needs=(needs.states, needs.chunk_states),
    max_examples=20,
)
def test_law_chunk_states(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int) -> None:
    """Going on from the state that is returned for a chunk gives what the whole gives from there on.

    Why: A prefix is cached with the states of its chunks. The chunks of packed sequences are counted from
        each sequence's begin; a state taken on the grid of the whole call belongs to another time.
    Bound: docs/fused.md section 2, a state handed over between calls.
    """
    inputs, contract, S = subject.inputs(gates, qkv).with_(s=None), subject.contract, gates.shape[-1]
    packed = contract.packed is not None and contract.packed_states
    turn = Turn(((0, cut), (cut, S)) if packed else ((0, S),), packed)
    for (start, end), states in subject.chunk_states_of(inputs, turn):
        for n, state in enumerate(states):
            at = n * (contract.chunk_states or 1)
            if not subject.domain.has_length(end - start - at):
                continue
            output = subject.goes_on(inputs, (start + at, end), state)
            whole = subject.read_inputs(inputs.part(start, end), (0, at) if at else (0,))
            note = f"t counts from time {start + at}, with the state of chunk {n} of the times {start}:{end}"
            expected = subject.expected_of(whole, state=[state])
            behind = expected.part((slice(None), slice(None), slice(at, None), slice(None)))
            subject.observe(require_within(subject.read(output), behind.noted(note)))


@law(
    PADDED,
    bound=(
        FusedBounds.output,
        *(bound for bound in fused_bounds.GRADIENT_BOUNDS if bound is not FusedBounds.parameter),
        DeltaBounds.output,
        *delta_bounds.GRADIENT_BOUNDS,
    ),
    kinds=(FUSED,),
    needs=(needs.mask,),
)
def test_law_padding(subject: FusedSubject, gates: Gates, qkv: QKV, cut: int, t: int, noise: int) -> None:
    """What stands in padded places changes no output, no state and no gradient of real tokens.

    Why: A mask of the output alone, of v but not of the gates, or of the first row for all: prompts of
        unlike lengths in one batch then have other answers than each alone.
    Bound: docs/fused.md section 2, the real tokens as a packed sequence; 0 across. A finite number of at most
        2^10 stands in padded places, NaN only where gates may hold it.
    """
    call = Padded.of(subject, gates, qkv, cut, t, noise)
    padding.require_outputs(call, subject.call_fused(call.given, **call.more))
    if subject.contract.has_gradients and subject.defines_gradients(qkv):
        padding.require_gradients(call)
    if padding.knows_states(subject):
        padding.require_state(call)
