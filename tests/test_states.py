"""States: where packed sequences begin, what a copy is, what is a remark and what a refusal."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any, cast

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from dmat.strategies import QKV, Constant, Edited, Gates
from dmat.strategies.cases.handed import PACKED_STATES, begins_of, spans_of
from dmat.testing import FusedContract, fused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.runtime import copied, laid_out
from dmat.testing.kernel.turns import STATE_LAYOUTS
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.registry import law_named
from dmat.testing.run.run import run
from dmat.testing.verdict.finding import LawBroken

from .zoo.fused_sound import chunkwise, widen
from .zoo.states import STATES_SOUND

RIGHT = {right.__name__: right for right in STATES_SOUND}


def closed_at(t: int) -> Gates:
    """Return gates of -1, but one far below."""
    return Gates("bfloat16", (1, 1, 7), fgate=Edited(Constant(-1.0), (((0, 0, t), -2e7),)))


ACCUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the state is read in a chunk that holds a gate of another sequence": (
        "packed_grid",
        "packed_states",
        {"gates": closed_at(3), "qkv": QKV("dense", K=16, seed=1), "cut": 3, "t": 2},
    ),
    "each call adds its part of a gradient to a cache in bfloat16": (
        "packed_softmax",
        "handover",
        {"gates": Gates("bfloat16", (1, 1, 16), fgate=Constant(-1.0)), "qkv": QKV(), "cut": 2},
    ),
    "the same, of packed sequences": (
        "packed_softmax",
        "packed_states",
        {
            "gates": Gates("bfloat16", (1, 1, 7), fgate=Constant(-1.0)),
            "qkv": QKV("dense", K=4, seed=5),
            "cut": 3,
            "t": 1,
        },
    ),
}


@pytest.mark.parametrize("why", ACCUSED)
def test_right_kernels_that_were_accused_once(why: str) -> None:
    """A right kernel keeps the law on the case on which it was accused."""
    name, law, case = ACCUSED[why]
    subject = subject_of(Implementation.of(name, RIGHT[name]), "bfloat16")
    assert law_named(law, "fused").why_not(subject, case) is None
    law_named(law, "fused").check(subject, **case)


def subject_with(**contract: Any) -> FusedSubject:
    """Return a kernel in chunks of 4 as a law sees it."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Any = None) -> Any:
        o, last = chunkwise(4, widen(q, k, v, log), state)
        return o.to(v.dtype), last

    promised = fused(kernel, states="state", error_scope=4, factors=4, **contract)
    return FusedSubject(Implementation.of("kernel", promised), "float32")


def test_sequences_begin_everywhere_in_a_chunk() -> None:
    """The second calls of cases hold sequences that begin at every place of a chunk, and cross its edges."""
    domain = FusedSubject(Implementation.of("k", RIGHT["packed_grid"]), "float32").domain
    places, crossing = set(), 0
    for S in range(7, 60):
        for cut in range(1, 5):
            turns = spans_of(S, cut, 5, domain)
            if turns is None:
                continue
            at, begins = 0, []
            for start, end in turns[1]:
                begins.append(at % 4)
                crossing += at // 4 != (at + end - start - 1) // 4
                at += end - start
            places |= set(begins)
    assert places == {0, 1, 2, 3}
    assert crossing >= 2


def test_spans_make_whole_sequences() -> None:
    """The parts of each sequence follow one another, and all of them are all times."""
    domain = FusedSubject(Implementation.of("k", RIGHT["packed_grid"]), "float32").domain
    for case in PACKED_STATES.ladder(domain):
        turns = spans_of(case["gates"].shape[-1], case["cut"], case["t"], domain)
        assert turns is not None
        parts = [span for sequence in zip(*turns, strict=True) for span in sequence]
        assert [end for _, end in parts[:-1]] == [start for start, _ in parts[1:]]
        assert (parts[0][0], parts[-1][1]) == (0, case["gates"].shape[-1])


def test_call_inputs_of_packed_calls() -> None:
    """A state is handed over within a sequence, and nothing is read across sequences."""
    zeros = torch.zeros(1, 1, 7).double().numpy()
    turns = (((0, 1), (4, 4)), ((1, 3), (4, 6)), ((3, 4), (6, 7)))
    one = CallInputs(zeros[..., None], zeros[..., None], zeros[..., None], zeros, zeros, (0, 1, 3, 4, 6),
                     True, turns)  # fmt: skip
    assert one.resets == (4,)
    assert one.crossing[3].tolist() == [2, 1, 1, 0, 0, 0, 0]
    assert one.crossing[6].tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert one.unread[0, 0, 6].tolist() == [True] * 4 + [False] * 3
    assert [x.tolist() for x in one.places] == [[0, 1, 1, 2, 1, 1, 2], [0, 0, 1, 0, 2, 3, 1]]


def test_a_state_is_handed_over_twice_where_lengths_allow() -> None:
    """What is left after the cut is halved if it is even and the contract allows the halves."""
    domain = subject_with(min_seq=2).domain
    assert begins_of(7, 3, domain) == (0, 3, 5)
    assert begins_of(6, 3, domain) == (0, 3)
    assert begins_of(5, 3, domain) == (0, 3)


@pytest.mark.parametrize("layout", STATE_LAYOUTS)
def test_layouts_of_a_state(layout: str) -> None:
    """The numbers are the same, the strides are not, and a copy has the strides and memory of its own."""
    state = (torch.randn(2, 3, 4, 5), [torch.randn(2, 3), 7])
    moved = laid_out(state, layout)
    assert torch.equal(moved[0], state[0])
    assert moved[0].stride() != state[0].stride()
    again = copied(moved)
    assert again[0].stride() == moved[0].stride()
    assert again[0].data_ptr() != moved[0].data_ptr()
    assert again[1][1] == 7


def test_a_refused_layout_is_a_remark() -> None:
    """A kernel that refuses a state which is not contiguous keeps the law, and the report says so."""
    subject = subject_of(Implementation.of("k", RIGHT["refuses_strides"]), "float32")
    case = {"gates": Gates("float32", (1, 1, 4)), "qkv": QKV("dense", K=4, V=3, seed=1), "cut": 2}
    law_named("state_layouts", "fused").check(subject, **case)
    assert subject.remarks == {f"a state that is {layout} in memory is refused" for layout in STATE_LAYOUTS}


def test_a_narrow_state_in_float32_is_a_remark() -> None:
    """A float32 state of numbers that are all bfloat16 is within the bound of bfloat16, and a remark."""

    def rounded(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Any = None) -> Any:
        o, last = chunkwise(4, widen(q, k, v, log), state)
        return o.to(v.dtype), last.bfloat16().float()

    kernel = fused(rounded, states="state", error_scope=4, factors=4, multiplies_in="input", gradient="none")
    case = {"gates": Gates("bfloat16", (1, 2, 4)), "qkv": QKV("dense", K=16, V=4, seed=1), "cut": 2}
    for function, expected in ((kernel, 1), (RIGHT["own_backward"], 0)):
        subject = subject_of(Implementation.of("k", function), "bfloat16")
        law_named("handover", "fused").check(subject, **case)
        assert len(subject.remarks) == expected


def test_states_without_gradients_are_judged_where_they_are_given() -> None:
    """With state_gradients=False a detached state is right, and the last call's own gradients are judged."""

    def detached(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Any = None) -> Any:
        o, last = chunkwise(4, widen(q, k, v, log), None if state is None else state.detach())
        return o.to(v.dtype), last.detach()

    case = {"gates": Gates("float32", (1, 1, 6)), "qkv": QKV("dense", K=4, V=3, seed=1), "cut": 2}
    law = law_named("handover", "fused")
    own: dict[str, Any] = {"states": "state", "error_scope": 4, "factors": 4}
    promised = fused(detached, **own)
    with pytest.raises(LawBroken):
        law.check(subject_of(Implementation.of("k", promised), "float32"), **case)
    given_up = fused(detached, **own, state_gradients=False)
    law.check(subject_of(Implementation.of("k", given_up), "float32"), **case)


@pytest.mark.parametrize("name", ["chunk_states", "delta_chunk_states"])
def test_states_of_chunks(name: str) -> None:
    """Right kernels keep the law; one that leaves out a state breaks it, with the number expected."""
    own = RIGHT[name]
    law = law_named("chunk_states", "fused")
    subject = subject_of(Implementation.of(name, own), "float32")
    for case in islice(law.cases.ladder(subject.domain), 3):
        law.check(subject, **case)

    def short(*inputs: Any, **more: Any) -> Any:
        o, last, states = own(*inputs, **more)
        return o, last, states[:-1]

    fewer = replace(Implementation.of(name, own), function=short)
    with pytest.raises(LawBroken) as broken:
        law.check(subject_of(fewer, "float32"), **case)
    assert broken.value.finding.quantity == "states"
    assert broken.value.finding.exact.startswith("(o, state, states), a list of")


def test_chunk_states_need_states() -> None:
    """A contract that states chunk_states without states is refused in one line."""
    with pytest.raises(ValueError, match="chunk_states is 4 without states; expected None"):
        fused(lambda q, k, v, g: q, chunk_states=4)


FEW = "no case satisfies the contract: no sequences of lengths (1, 2, 17, 33) make one"


@pytest.mark.parametrize(
    ("law", "status", "why"), [("handover", "passed", ""), ("packed_states", "not run", FEW)]
)
def test_lengths_of_which_few_make_two_calls(law: str, status: str, why: str) -> None:
    """Random cases whose calls have lengths that the contract does not allow are not tried.

    A law that has no other case is not one that the contract promises.
    """
    own, profile = (
        Implementation.of("packed_grid", RIGHT["packed_grid"]),
        settings(max_examples=10, database=None),
    )
    contract = cast(FusedContract, own.contract)
    kernel = replace(own, contract=replace(contract, lengths=(1, 2, 17, 33)))
    [record] = run(kernel, [law_named(law, "fused")], ["float32"], ["cpu"], profile=profile)
    assert (record.status, record.reason) == (status, why)
    assert record.promised == (not why)
