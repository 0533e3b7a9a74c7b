"""Right fused kernels that were accused once, each on the case that did it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dmat.strategies import QKV, Constant, DeltaQKV, Edited, Gates
from dmat.strategies.cases.fused import PACKED, sequence_ends
from dmat.testing import fused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.registry import law_named

from .zoo.channels import CHANNELS_SOUND
from .zoo.delta_sound import DELTA_SOUND
from .zoo.fused_sound import by_differences, by_windows, causal, chunks_factored, product, widen
from .zoo.gate_kernels import GATES_SOUND
from .zoo.half_mutants import HALVES_SOUND

RIGHT = {right.__name__: right for right in (*CHANNELS_SOUND, *GATES_SOUND, *HALVES_SOUND)}


def one_sum_over_the_stream(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Packed sequences kept apart by a mask: the cumulative sum goes on over them."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    D = by_differences(log_f)
    if starts is not None:
        at = torch.bucketize(torch.arange(q.shape[2]), starts, right=True)
        D = D.masked_fill(at[:, None] != at[None, :], -math.inf)
    return product(q, k, v_, D.exp()).to(v.dtype)


def one_sum_over_the_cache(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, cache: Any = None) -> Any:
    """Keys, values and the cumulative sum of all history, handed on."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    c = sums = log_f.cumsum(-1)
    if cache is not None:
        c = cache[2][..., -1:] + c
        k, v_, sums = torch.cat([cache[0], k], 2), torch.cat([cache[1], v_], 2), torch.cat([cache[2], c], -1)
    S, all_ = q.shape[2], sums.shape[-1]
    D = (c[..., :, None] - sums[..., None, :]).masked_fill(~causal(all_)[all_ - S :], -math.inf)
    return product(q, k, v_, D.exp()).to(v.dtype), (k, v_, sums)


def undecayed_stabiliser(q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor) -> Tensor:
    """An mLSTM whose m is the largest input gate so far."""
    q, k, v_, i, log_f = widen(q, k, v, i, log_f)
    m = i.cummax(-1).values[..., None]
    a = q @ k.mT * (by_windows(log_f) + i[..., None, :] - m).exp()
    o: Tensor = a @ v_ / torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp())
    return o.to(v.dtype)


def narrow_state(q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor) -> Tensor:
    """One step after another, the state rounded to the type of v: it holds k e^i v before any decay."""
    q, k, v_, i, log_f = widen(q, k, v, i, log_f)
    state, outputs = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        decay, gate = (x[:, :, t, None, None].exp() for x in (log_f, i))
        state = decay * state + gate * k[:, :, t, :, None] * v_[:, :, t, None, :]
        state = state.to(v.dtype).float()
        outputs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outputs, 2).to(v.dtype)


def gates(dtype: str, *log: float, igate: float = 0.0) -> Gates:
    """Return the gates of one head, forget gates as told."""
    edits = tuple(((0, 0, t), value) for t, value in enumerate(log))
    return Gates(dtype, (1, 1, len(log)), Constant(igate), Edited(Constant(0.0), edits))


STREAM: dict[str, Any] = {"packed": "starts", "factors": "one"}
CLOSED_BEFORE = {"gates": gates("float32", -2e7, -1.0, -1.0), "qkv": QKV(), "cut": 1, "t": 3}
DELTA = {style.__name__: style for style in DELTA_SOUND}
ACCUSED: dict[str, tuple[Callable[..., Any], str, str, dict[str, Any]]] = {
    "a prefix before a packed sequence": (
        fused(one_sum_over_the_stream, error_scope="prefix", **STREAM),
        "packed",
        "float32",
        CLOSED_BEFORE,
    ),
    "chunks counted from the start of the call": (
        fused(one_sum_over_the_stream, error_scope=8, **STREAM),
        "packed",
        "float32",
        CLOSED_BEFORE,
    ),
    "a prefix before a call": (
        fused(one_sum_over_the_cache, error_scope="prefix", factors="one", states="cache"),
        "handover",
        "float32",
        {"gates": gates("float32", -1017.0, -0.009, -7.7), "qkv": QKV(), "cut": 1},
    ),
    "a stabiliser that does not decay": (
        fused(undecayed_stabiliser, reads="mlstm", igate=True, factors="one", V=4, i_range=(-30.0, 30.0)),
        "dense",
        "float32",
        {
            "gates": Gates(
                "float32", (1, 1, 2), Edited(Constant(-29.0), (((0, 0, 0), 30.0),)), Constant(-60.0)
            ),
            "qkv": QKV("dense", V=4, seed=29270, regime="small"),
        },
    ),
    "a chunk that measures its sums from its last time": (
        fused(chunks_factored, error_scope=4, factors=4, l_min=-5.0, causal="bound"),
        "forget_gradient",
        "float32",
        {"gates": Gates("float32", (1, 2, 3), fgate=Constant(-1.0)), "qkv": QKV(K=4, seed=235, pull=17450)},
    ),
    "chunks that measure their sums from their last times": (
        fused(chunks_factored, error_scope=4, factors=4, l_min=-5.0, causal="bound"),
        "forget_gradient",
        "float32",
        {"gates": Gates("float32", (3, 3, 8), fgate=Constant(-3.0)), "qkv": QKV(K=4, pull=62084)},
    ),
    "a float16 state that overflows": (
        fused(narrow_state, igate=True, multiplies_in="input", i_range=(-12.0, 12.0), gradient="none"),
        "values",
        "float16",
        {"gates": gates("float16", 0.0, -2.0, igate=12.0), "qkv": QKV()},
    ),
    "a delta rule whose sums of gates have lost all digits": (
        DELTA["delta_chunks"],
        "values",
        "float32",
        {
            "gates": Gates("float32", (1, 1, 3), fgate=Edited(Constant(-747.0), (((0, 0, 0), -1e15),))),
            "qkv": DeltaQKV(K=16, seed=1, keys="few", beta="uniform"),
        },
    ),
    "a delta rule whose float16 output is subnormal": (
        DELTA["delta_merged_by_rows"],
        "scaling",
        "float16",
        {"gates": Gates("float16", (1, 1, 15)), "qkv": DeltaQKV(seed=1, keys="dense", beta="uniform")},
    ),
    "value heads whose float16 parts of dk are subnormal": (
        RIGHT["grouped_mlstm"],
        "product_gradients",
        "float16",
        {
            "gates": Gates("float16", (1, 2, 1), igate=Constant(-8.0)),
            "qkv": QKV(kind="dense", K=4, V=3, seed=59460, regime="small"),
        },
    ),
    "decays whose log gates have a gradient that underflows": (
        RIGHT["decays_by_logs"],
        "one_sided",
        "float32",
        {"gates": Gates("float32", (1, 1, 3), fgate=Constant(-48.0)), "qkv": QKV(K=4, seed=5, pull=1386)},
    ),
    "a delta rule that takes 1 - sigmoid of a rounded sigmoid": (
        RIGHT["gdn_steps"],
        "beta_gradient",
        "float32",
        {
            "gates": Gates("float32", (2, 3, 12)),
            "qkv": DeltaQKV(kind="dense", K=16, seed=1, keys="dense", beta="uniform"),
        },
    ),
    "a softmax that differentiates its own maximum": (
        RIGHT["softmax_in_halves"],
        "equal_terms",
        "bfloat16",
        {"gates": Gates("float32", (1, 1, 400)), "qkv": QKV(kind="equal", K=16, V=1, seed=1)},
    ),
    "a delta rule whose float16 output rounds up to the smallest normal number": (
        RIGHT["grouped_kda"],
        "scaling",
        "float16",
        {
            "gates": Gates("float16", (1, 1, 45)),
            "qkv": DeltaQKV(K=4, seed=2, keys="dense", beta="tiny"),
        },
    ),
}


@pytest.mark.parametrize("name", ACCUSED)
def test_it_is_not_accused_again(name: str) -> None:
    """The law holds on the case that once broke it."""
    kernel, law, dtype, case = ACCUSED[name]
    subject, entry = subject_of(Implementation.of(name, kernel), dtype), law_named(law, "fused")
    assert entry.why_not(subject, entry.arguments(case)) is None
    entry.check(subject, **entry.arguments(case))


def test_packed_sequences_have_lengths_that_are_allowed() -> None:
    """Where only multiples of 8 are promised, no packed sequence has another length."""
    contract = fused(one_sum_over_the_stream, seq_multiple_of=8, error_scope="prefix", **STREAM)
    domain = FusedSubject(Implementation.of("multiples", contract), "float32").domain

    def require_allowed(case: dict[str, Any]) -> None:
        ends = sequence_ends(case["gates"].shape[-1], case["cut"], case["t"])
        assert all((end - start) % 8 == 0 for start, end in pairwise(ends)), case

    for case in PACKED.ladder(domain):
        require_allowed(case)

    @settings(max_examples=100, database=None, deadline=None)
    @given(PACKED.search(domain))
    def drawn(case: dict[str, Any]) -> None:
        require_allowed(case)

    drawn()
