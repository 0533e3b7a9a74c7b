"""Mutants of fused kernels. Each names the law that must reject it, and the bug that it restates.

Each mutant is right code with one change, under the contract that the right code keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from dmat.testing import fused

from .fused_sound import (
    FORGETTING,
    MLSTM,
    ROOT,
    Chunks,
    Kernel,
    OnlineSoftmax,
    State,
    by_differences,
    by_windows,
    causal,
    chunk_gradients,
    chunkwise,
    mlstm_recurrent,
    product,
    widen,
)


@dataclass(frozen=True)
class FusedMutant:
    """A wrong kernel, the law that must reject it, and the published bug, or class of bug, that it restates.

    smallest: the length of the shortest sequence on which the kernel is wrong, if above 4. No failing case is
    shorter, and the shrunk case must not be longer.
    """

    name: str
    kernel: Kernel
    law: str
    museum: str
    smallest: int = 4


FUSED_MUTANTS: list[FusedMutant] = []
CHUNKS: dict[str, Any] = {"error_scope": 4, "factors": 4}
WINDOWS: dict[str, Any] = {"factors": "one"}


def mutant(law: str, museum: str, smallest: int = 4, **contract: Any) -> Callable[[Kernel], Kernel]:
    """Register a kernel under its contract."""

    def register(kernel: Kernel) -> Kernel:
        name = kernel.__name__
        FUSED_MUTANTS.append(FusedMutant(name, fused(kernel, **contract), law, museum, smallest))
        return kernel

    return register


def parallel(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """The right kernel from which most mutants differ in one thing: all of E at once, from window sums."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    return product(q, k, v_, by_windows(log_f).exp()).to(v.dtype)


def over(q: Tensor, k: Tensor, v: Tensor, E: Tensor) -> Tensor:
    """Return the output for this E."""
    q, k, v_ = widen(q, k, v)
    return product(q, k, v_, E).to(v.dtype)


# Masks.


@mutant("finite", "exp before the mask: fla naive_chunk_kda, mamba's ssd_chunk_scan", **WINDOWS)
def masked_by_product(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    c = widen(log_f)[0].cumsum(-1)
    E = (c[..., :, None] - c[..., None, :]).exp() * causal(c.shape[-1])
    return over(q, k, v, E)


@mutant("gradient_finite", "exp before a where: inf times 0 in its gradient, mamba_ssm 2.3.2", **WINDOWS)
def masked_after_exp(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    c = widen(log_f)[0].cumsum(-1)
    E = torch.where(causal(c.shape[-1]), (c[..., :, None] - c[..., None, :]).exp(), 0.0)
    return over(q, k, v, E)


@mutant("values", "strict triangle: a time does not read itself", **WINDOWS)
def strict_triangle(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    E = by_windows(widen(log_f)[0]).exp().tril(-1)
    return over(q, k, v, E)


@mutant("future", "a mask one diagonal too wide", **WINDOWS)
def one_step_of_the_future(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    D = by_windows(widen(log_f)[0])
    E = D.exp() + 2.0**-10 * torch.ones_like(D).tril(1).triu(1)
    return over(q, k, v, E)


@mutant("values", "exp instead of a mask by sign: zero log gates are taken for masked ones", **WINDOWS)
def masked_by_sign(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    D = by_windows(widen(log_f)[0])
    off = torch.where(D < 0, D.exp(), 0.0).tril(-1) + torch.eye(D.shape[-1])
    return over(q, k, v, off)


# Gates.


@mutant("values", "wrong head's gates: a stride factor of heads left out", **WINDOWS)
def gates_of_another_head(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f.roll(1, 1))


@mutant("values", "window off by one: a source's own gate is read, its last one is not", **WINDOWS)
def own_gate_read(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f.roll(1, -1))


@mutant("values", "cumulative sum in bfloat16 (flash-linear-attention #196: in the gates' type)", **WINDOWS)
def bfloat16_sums(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f.bfloat16().to(log_f.dtype))


@mutant("values", "half accumulation, declared float32", dtypes=("bfloat16", "float16"), **WINDOWS)
def half_products(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return (q @ k.mT) * by_windows(log_f).exp() @ v


@mutant("values", "difference of cumulative sums, declared windows", **WINDOWS)
def undeclared_differences(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    E = by_differences(widen(log_f)[0]).exp()
    return over(q, k, v, E)


@mutant("closed_gates", "a clamp against -inf lets a closed gate leak", special_values=("-inf",), **WINDOWS)
def clamped_gates(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    clamped = torch.where(log_f == -math.inf, log_f.new_tensor(-8.0), log_f)
    return parallel(q, k, v, clamped)


@mutant("closed_gates", "-inf less -inf in a cumulative sum is NaN", special_values=("-inf",), **WINDOWS)
def closed_gates_in_sums(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    closed = (log_f == -math.inf).any()
    return undeclared_differences(q, k, v, log_f) if closed else parallel(q, k, v, log_f)


@mutant("nan_containment", "sums by a triangular product: 0 times NaN", special_values=("nan",), **WINDOWS)
def sums_by_product(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    S = log_f.shape[-1]
    rows = causal(S).to(log_f.dtype)
    spread = (rows @ (log_f[..., None] * 0))[..., 0]
    return parallel(q, k, v, log_f + spread)


# Products.


@mutant("values", "scale forgotten", scale=ROOT, **WINDOWS)
def scale_forgotten(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f)


@mutant("values", "q and k swapped", **WINDOWS)
def q_and_k_swapped(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(k, q, v, log_f)


@mutant("exact", "v of another head", **WINDOWS)
def v_of_another_head(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v.flip(1), log_f)


@mutant("dense", "only the first tile of channels is summed", **WINDOWS)
def first_channel_only(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    most = q.abs().amax((0, 1, 2)).argmax() if q.shape[2] else 0
    single = torch.arange(q.shape[-1]) == most
    return parallel(q * single, k * single, v, log_f)


@mutant("dense", "the last column of v left out of its tile", **WINDOWS)
def ragged_columns_left_out(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    one_hot = (v != 0).sum(-2).max() <= 1 if v.numel() else True
    kept = v if one_hot else torch.cat([v[..., :-1], v[..., :1]], -1)
    return parallel(q, k, kept, log_f)


@mutant("scaling", "values clipped", **WINDOWS)
def values_clipped(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v.clamp(-1.5, 1.5), log_f)


@mutant("values", "wrong for bfloat16 alone: the gates are read as float16 bits", **WINDOWS)
def wrong_for_bfloat16(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f * (1.125 if v.dtype == torch.bfloat16 else 1))


@mutant("output_shape", "heads and time of a layout swapped", layout="BSHD", **WINDOWS)
def wrong_layout(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(*(x.transpose(1, 2) for x in (q, k, v, log_f)))


@mutant("output_shape", "the output in the accumulator's type", **WINDOWS)
def output_not_cast(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    q, k, v, log_f = widen(q, k, v, log_f)
    return product(q, k, v, by_windows(log_f).exp())


# Chunks: the carry.


def chunks(
    inputs: tuple[Tensor, ...],
    decay: Callable[[Tensor, int], Tensor] = lambda total, n: total,
    read: Callable[[Tensor, int], Tensor] = lambda state, n: state,
    tail: Callable[[Tensor], Tensor] = lambda within: within,
    C: int = 4,
) -> Tensor:
    """Compute o in chunks of C. The functions change one step of chunk n; by default none is changed.

    decay: the decay of the carry. read: the state that the chunk reads. tail: the decay to the chunk's end.
    """
    q, k, v, log_f = widen(*inputs)
    state, outputs = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for n, (q_, k_, v_, l_) in enumerate(zip(*(torch.split(x, C, 2) for x in (q, k, v, log_f)), strict=True)):
        c = l_.cumsum(-1)[..., None]
        outputs.append(product(q_, k_, v_, by_differences(l_).exp()) + q_ * c.exp() @ read(state, n))
        within = tail((c[..., -1:, :] - c).exp())
        state = decay(c[..., -1:, :].exp(), n) * state + (k_ * within).mT @ v_
    return torch.cat(outputs, 2).to(inputs[2].dtype)


@mutant("values", "carry forgotten after two chunks: a loop one step short", 9, **CHUNKS)
def carry_forgotten(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return chunks((q, k, v, log_f), read=lambda state, n: state if n < 2 else torch.zeros_like(state))


@mutant("values", "the carry is not decayed by a whole chunk", 9, **CHUNKS)
def carry_not_decayed(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return chunks((q, k, v, log_f), decay=lambda total, n: torch.ones_like(total))


@mutant("values", "the carry of another head", 5, **CHUNKS)
def carry_of_another_head(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return chunks((q, k, v, log_f), read=lambda state, n: state.flip(1))


@mutant("values", "wrong only past three chunks of 4: an index of 2 bits", 17, **CHUNKS)
def wrong_past_four_chunks(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return chunks((q, k, v, log_f), read=lambda state, n: state if n < 4 else 2 * state)


@mutant("values", "decay to the end of a chunk factored: exp(last) exp(-c) overflows", **CHUNKS)
def factored_within(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    c = widen(log_f)[0].cumsum(-1)[..., None]
    q_, k_, v_ = widen(q, k, v)
    a = (q_ * c.clamp(min=-60).exp()) @ (k_ * (-c).clamp(max=60).exp()).mT
    return (a.masked_fill(~causal(c.shape[2]), 0.0) @ v_).to(v.dtype)


@mutant("values", "one chunk of 64 where chunks of 4 are declared", 6, **CHUNKS)
def chunks_of_64(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return chunks((q, k, v, log_f), C=64)


# States.


Handed = tuple[Tensor, Tensor]


def with_state(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The right kernel: chunks of 4, starting from a state."""
    o, state = chunkwise(4, widen(q, k, v, log_f), state)
    return o.to(v.dtype), state


@mutant("handover", "initial state ignored", states="state", **CHUNKS)
def state_ignored(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    return with_state(q, k, v, log_f, None)


@mutant(
    "handover", "the first gate of a call does not decay the state it was given", states="state", **CHUNKS
)
def state_not_decayed(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    first = torch.arange(log_f.shape[-1]) == 0
    return with_state(q, k, v, torch.where(first, 0.0, log_f), state)


@mutant("handover", "the state handed over lacks the last step", states="state", **CHUNKS)
def state_without_last(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    o, last = with_state(q, k, v, log_f, state)
    if q.shape[2] == 1:
        return o, torch.zeros_like(last) if state is None else state
    q, k, v, log_f = (x[:, :, :-1] for x in (q, k, v, log_f))
    return o, with_state(q, k, v, log_f, state)[1]


@mutant("handover", "the state rounded to bfloat16, declared float32", dtypes=("float32",), states="state",
        **CHUNKS)  # fmt: skip
def state_rounded(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    o, state = with_state(q, k, v, log_f, state)
    return o, state.bfloat16().float()


@mutant("handover", "a float32 state that was rounded to the type of v", dtypes=("bfloat16", "float16"),
        output_dtype="float32", states="state", **CHUNKS)  # fmt: skip
def state_once_narrow(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    q_, k_, v_, l_ = widen(q, k, v, log_f)
    o, state = with_state(q_, k_, v_, l_, state)
    return o, state.to(v.dtype).float()


@mutant("handover", "a padded tail decays the state on", states="state", **CHUNKS)
def tail_decays_state(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    o, state = with_state(q, k, v, log_f, state)
    missing = -log_f.shape[-1] % 4
    return o, state * (missing * widen(log_f)[0][..., -1, None, None]).exp()


@mutant("handover", "m is not handed over: the state is taken at m = 0", **MLSTM, states="state")
def m_not_handed_over(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: Any = None
) -> tuple[Tensor, State]:
    if state is not None:
        state = (*state[:2], torch.zeros_like(state[2]))
    return mlstm_recurrent(q, k, v, i, f, state)  # type: ignore[no-any-return]


# Packed sequences.


def resetting(log_f: Tensor, starts: Tensor | list[int]) -> Tensor:
    """Return the log gates with those at `starts` closed."""
    closed = torch.zeros(log_f.shape[-1], dtype=torch.bool)
    closed[starts] = True
    return torch.where(closed, -math.inf, log_f)


@mutant("packed", "cu_seqlens ignored", packed="cu_seqlens", **WINDOWS)
def packing_ignored(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, cu_seqlens: Any = None) -> Tensor:
    return parallel(q, k, v, log_f)


@mutant("packed", "a sequence is reset one step late", packed="cu_seqlens", **WINDOWS)
def reset_one_late(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, cu_seqlens: Any = None) -> Tensor:
    starts = [] if cu_seqlens is None else cu_seqlens[1:-1] + 1
    return parallel(q, k, v, resetting(log_f, [s for s in starts if s < log_f.shape[-1]]))


@mutant("packed", "only the first of the sequences is cut off", packed="cu_seqlens", **WINDOWS)
def only_first_reset(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, cu_seqlens: Any = None) -> Tensor:
    return parallel(
        q, k, v, resetting(log_f, [] if cu_seqlens is None else cu_seqlens[1:2][: len(cu_seqlens) - 2])
    )


# mLSTM.


def mlstm(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, below: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Parallel mLSTM over below(n e^-m, m)."""
    q, k, v_, i, f = widen(q, k, v, i, f)
    D = by_windows(logsigmoid(f)) + i[..., None, :]
    m = D.amax(-1, keepdim=True)
    a = q @ k.mT * q.shape[-1] ** -0.5 * (D - m).exp()
    o: Tensor = a / below(a.sum(-1, keepdim=True), m) @ v_
    return o.to(v.dtype)


@mutant("values", "the stabiliser left out", i_range=(-8.0, 100.0), factors="one", **MLSTM)
def not_stabilised(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    q, k, v_, i, f = widen(q, k, v, i, f)
    a = q @ k.mT * q.shape[-1] ** -0.5 * (by_windows(logsigmoid(f)) + i[..., None, :]).exp()
    o: Tensor = a / a.sum(-1, keepdim=True).abs().clamp(min=1) @ v_
    return o.to(v.dtype)


@mutant("values", "max(n, 1) for max(|n|, 1)", factors="one", **MLSTM)
def n_without_abs(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: torch.maximum(n, (-m).exp()))


@mutant("values", "|n| alone: no lower bound", factors="one", **MLSTM)
def n_alone(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: n.abs())


@mutant("values", "max(|n|, 1) where n is stabilised: max(|n|, e^-m) is due", factors="one", **MLSTM)
def one_for_e_to_minus_m(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: torch.maximum(n.abs(), torch.ones_like(m)))


@mutant("values", "e^-m where n is not stabilised: 1 is due", factors="one", **MLSTM)
def e_to_minus_m_for_one(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: (-m).exp() * torch.maximum((n * m.exp()).abs(), (-m).exp()))


@mutant("values", "an eps of 1e-2 in the normaliser, declared none", factors="one", **MLSTM)
def eps_too_large(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: torch.maximum(n.abs(), (-m).exp()) + 1e-2)


# Gradients.


Backward = Callable[..., tuple[Tensor, ...]]  # (W, q, k, v, l) -> dq, dk, dv, dl


class _Own(torch.autograd.Function):
    """A right forward, in chunks of 4, and a given backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, backward: Backward) -> Tensor:
        ctx.save_for_backward(q, k, v, log_f)
        ctx.gradients = backward
        return chunkwise(4, widen(q, k, v, log_f))[0].to(v.dtype)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        gradients = ctx.gradients(*widen(W, *inputs))
        return *(x.to(of.dtype) for x, of in zip(gradients, inputs, strict=True)), None


def gradient_mutant(
    law: str, museum: str, smallest: int = 4, **contract: Any
) -> Callable[[Backward], Backward]:
    """Register a wrong backward (W, q, k, v, l) -> dq, dk, dv, dl behind a right forward in chunks of 4."""

    def register(backward: Backward) -> Backward:
        def kernel(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
            return _Own.apply(q, k, v, log_f, backward)  # type: ignore

        kernel.__name__ = backward.__name__
        stated = {**CHUNKS, "grad_scope": "suffix", **contract}
        mutant(law, museum, smallest, **stated)(kernel)
        return backward

    return register


def right(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The right gradients, in chunks of 4."""
    return chunk_gradients(4, W, *inputs)


@gradient_mutant("forget_gradient", "reverse cumulative sum exclusive where inclusive is due")
def exclusive_sum(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *others, dl = right(W, *inputs)
    return *others, pad(dl[..., 1:], (0, 1))


@gradient_mutant("product_gradients", "the carry left out going back", 5)
def carry_left_out_back(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *_, dl = right(W, *inputs)
    parts = (right(*part) for part in zip(*(torch.split(x, 4, 2) for x in (W, *inputs)), strict=True))
    _, dk, dv = (torch.cat(x, 2) for x in list(zip(*parts, strict=True))[:3])
    return right(W, *inputs)[0], dk, dv, dl


@gradient_mutant("product_gradients", "dk transposed in its tile")
def dk_transposed(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    dq, dk, dv, dl = right(W, *inputs)
    return dq, dk.flip(2), dv, dl


@gradient_mutant("first_forget_gradient", "df[0] is not 0: a row less its column, summed too far")
def first_gate_gets_gradient(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *others, dl = right(W, *inputs)
    first = torch.arange(dl.shape[-1]) == 0
    return *others, torch.where(first, 1e-2, dl)


@gradient_mutant("first_forget_gradient", "a suffix sum, declared a rectangle", grad_scope="rectangle")
def undeclared_suffix_sum(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return right(W, *inputs)


@gradient_mutant("gradient_exact", "the gradient of the gate of another head")
def dl_of_another_head(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *others, dl = right(W, *inputs)
    return *others, dl.flip(1)


@gradient_mutant("gradient_finite", "NaN gradient at closed gates: 0 / 0 in the rate")
def nan_where_closed(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *others, dl = right(W, *inputs)
    decay = inputs[-1].exp()
    return *others, dl * decay / decay


@gradient_mutant("gradient_shape", "gradients of the gates without the axis of heads")
def heads_summed(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    *others, dl = right(W, *inputs)
    return *others, dl.sum(1)


@mutant("forget_gradient", "df without sigmoid(-f)", factors="one", gate="preact")
def rate_left_out(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    log_f = logsigmoid(f)
    return parallel(q, k, v, log_f.detach() + f - f.detach())


@mutant("product_gradients", "dq without the scale", scale=ROOT, **WINDOWS)
def dq_without_scale(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    scale = q.shape[-1] ** -0.5
    scaled = q.detach() * scale + (q - q.detach())
    return parallel(scaled if q.dtype == torch.float32 else q * scale, k, v, log_f)


# Softmax with gates.


def softmax_mutant(law: str, museum: str, fault: str, smallest: int = 4) -> None:
    """Register forgetting attention over tiles with one fault."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
        o: Tensor = OnlineSoftmax.apply(q, k, v, log_f, frozenset({fault}))  # type: ignore
        return o

    kernel.__name__ = f"softmax_{fault.replace(' ', '_')}"
    mutant(law, museum, smallest, **FORGETTING)(kernel)


softmax_mutant("values", "the sum so far not rescaled when the maximum grows", "rescaling", 5)
softmax_mutant("values", "the source's own gate decays it too", "own gate")
softmax_mutant("dense", "scores without the scale", "scale")
softmax_mutant("forget_gradient", "W.o not taken off going back", "delta")
softmax_mutant("forget_gradient", "row sums without the column sums", "columns")
softmax_mutant("product_gradients", "what rows are divided by kept in the type of v", "narrow lse")
softmax_mutant("product_gradients", "dk without the scale", "dk")


@mutant("input_gradient", "di left out: zero", factors="one", **MLSTM)
def di_left_out(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i.detach(), f, lambda n, m: torch.maximum(n.abs(), (-m).exp()))


@mutant("input_gradient", "the normaliser held constant, declared the full gradient", factors="one", **MLSTM)
def undeclared_truncation(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    return mlstm(q, k, v, i, f, lambda n, m: torch.maximum(n.abs(), (-m).exp()).detach())


# Locality.


@mutant("locality", "a maximum over the whole head: rounding depends on the future", factors="one", **MLSTM)
def anchored_on_whole_head(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    q, k, v_, i, f = widen(q, k, v, i, f)
    D = by_windows(logsigmoid(f)) + i[..., None, :]
    m = D.amax((-1, -2), keepdim=True)
    a = q @ k.mT * q.shape[-1] ** -0.5 * (D - m).exp()
    o: Tensor = a / torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp()) @ v_
    return o.to(v.dtype)


@mutant("causality", "rows are normalised by the mean of the whole sequence", **WINDOWS)
def mean_of_the_sequence(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    mean = v.float().mean(2, keepdim=True) / 64
    return parallel(q, k, (v.float() + mean - mean).to(v.dtype) if v.dtype == torch.float32 else v, log_f)


@mutant("independence", "an anchor shared by all heads of a batch", **WINDOWS)
def anchored_on_all_heads(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    q_, k_, v_, l_ = widen(q, k, v, log_f)
    anchor = v_.abs().amax() / 3 if v.numel() else 1.0
    return (product(q_, k_, v_ / anchor, by_windows(l_).exp()) * anchor).to(v.dtype)


# Conduct.


_buffers: dict[tuple[Any, ...], Tensor] = {}


@mutant("results_kept", "a static output buffer", **WINDOWS, gradient="none")
def static_buffer(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    o = parallel(q, k, v, log_f).detach()
    return _buffers.setdefault((o.shape, o.dtype), torch.empty_like(o)).copy_(o)


@mutant("inputs_untouched", "the gates are summed in place", **WINDOWS)
def gates_overwritten(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    o = parallel(q, k, v, log_f.clone())
    log_f.detach()[:1, :1, :1].fill_(-1.5)
    return o


_calls: list[int] = []


@mutant("repeatable", "atomic additions: the sum's order differs from call to call", **WINDOWS)
def unlike_calls(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    _calls.append(1)
    o = parallel(q, k, v, log_f)
    eps = torch.finfo(v.dtype).eps
    return o * (1 + eps) if len(_calls) % 2 else o


@mutant("surroundings_unread", "a read past the last gate of the view", **WINDOWS)
def read_past_the_end(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    shape = zip(log_f.shape, log_f.stride(), strict=True)
    behind = log_f.storage_offset() + sum((n - 1) * step for n, step in shape) + 1
    o = parallel(q, k, v, log_f)
    if not log_f.numel() or behind * log_f.element_size() >= log_f.untyped_storage().nbytes():
        return o
    stray = log_f.detach().as_strided((), (), behind)
    return torch.where(stray.isfinite() & (stray.abs() > 1e4), 2 * o, o)


@mutant("uninitialised_unread", "padding from torch.empty", **WINDOWS)
def padding_from_empty(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    missing = -q.shape[2] % 4
    padding = torch.empty(*v.shape[:2], missing, v.shape[3], dtype=v.dtype).nan_to_num(0.0)
    return parallel(q, k, v, log_f) + 0.5 * padding.sum(2, keepdim=True)


class _InChunks(torch.autograd.Function):
    """A right forward, in chunks of 4; subclasses add a wrong backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, log_f)
        ctx.runs = 0
        return chunkwise(4, widen(q, k, v, log_f))[0].to(v.dtype)


def pulled(W: Tensor, seen: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the right gradients for the inputs `seen`, in the dtypes of `inputs`."""
    gradients = right(*widen(W, *seen))
    return tuple(x.to(of.dtype) for x, of in zip(gradients, inputs, strict=True))


class _UsedUp(_InChunks):
    """A gradient that is right in the first backward and wrong in later ones, like a buffer used up."""

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, ...]:
        inputs, ctx.runs = ctx.saved_tensors, ctx.runs + 1
        return pulled(W if ctx.runs == 1 else 2 * W, inputs, inputs)


@mutant("retained_graph", "a buffer of the backward used up by its first run", grad_scope="suffix", **CHUNKS)
def second_backward_wrong(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return _UsedUp.apply(q, k, v, log_f)  # type: ignore


# Mutants that a first reader of these laws wrote, and that the laws of that time did not reject.


@gradient_mutant("cotangent_untouched", "the cotangent clipped in place")
def cotangent_clipped(W: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return right(W.clamp_(-0.5, 0.5), *inputs)


class _FrozenGates(_InChunks):
    """Gradients without the decay if the gates need no gradient."""

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, ...]:
        *others, log_f = inputs = ctx.saved_tensors
        decay = log_f if ctx.needs_input_grad[3] else torch.zeros_like(log_f)
        return pulled(W, (*others, decay), inputs)


@mutant("one_sided", "another path where the gates are frozen", grad_scope="suffix", **CHUNKS)
def gates_frozen(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return _FrozenGates.apply(q, k, v, log_f)  # type: ignore


@mutant("one_sided", "the output rounded to bfloat16 in training", dtypes=("float32",), **WINDOWS)
def coarse_in_training(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    o = parallel(q, k, v, log_f)
    return o + (o.bfloat16().float() - o).detach() if q.requires_grad or v.requires_grad else o


class _PackedForwardOnly(torch.autograd.Function):
    """A right packed forward, and a backward that ignores packing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, starts: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, log_f)
        q, k, v_, log_f = widen(q, k, v, log_f)
        D = by_windows(log_f)
        if starts is not None:
            at = torch.bucketize(torch.arange(q.shape[2]), starts, right=True)
            D = D.masked_fill(at[:, None] != at[None, :], -math.inf)
        return product(q, k, v_, D.exp()).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        return *pulled(W, ctx.saved_tensors, ctx.saved_tensors), None


@mutant(
    "packed", "a backward that knows of no packed sequences", packed="starts", grad_scope="suffix", **CHUNKS
)
def packed_going_forward_only(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, starts: Tensor | None = None
) -> Tensor:
    return _PackedForwardOnly.apply(q, k, v, log_f, starts)  # type: ignore


class _StateNotBack(Chunks):
    """A backward that ignores the initial state."""

    @staticmethod
    def backward(ctx: Any, W: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        return *pulled(W, ctx.saved_tensors, ctx.saved_tensors), None


@mutant(
    "handover", "dq and dl without the state that was given", states="state", grad_scope="suffix", **CHUNKS
)
def state_left_out_going_back(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Handed:
    return _StateNotBack.apply(q, k, v, log_f, state)  # type: ignore


@mutant("values", "only four heads have a program", **WINDOWS)
def heads_past_four(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    few = torch.arange(q.shape[1]) < 4
    return parallel(q, k, v, log_f) * few[:, None, None].to(v.dtype)


@mutant("dense", "values past the first block of 128 columns", **WINDOWS)
def columns_past_128(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return parallel(q, k, v, log_f) * (torch.arange(v.shape[-1]) < 128).to(v.dtype)


@mutant("dense", "k read with the strides of q", **WINDOWS)
def strides_of_q(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    reach = k.storage_offset() + sum((n - 1) * step for n, step in zip(k.shape, q.stride(), strict=True))
    if reach < k.untyped_storage().nbytes() // k.element_size():
        k = k.as_strided(k.shape, q.stride(), k.storage_offset())
    return parallel(q, k, v, log_f)


class _FlatCotangent(_InChunks):
    """A backward that reads its cotangent as contiguous, from its first address."""

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, ...]:
        flat = torch.empty(0, dtype=W.dtype).set_(W.untyped_storage())[W.storage_offset() :][: W.numel()]
        taken = flat.view(W.shape) if flat.numel() == W.numel() else W
        return pulled(taken, ctx.saved_tensors, ctx.saved_tensors)


@mutant("product_gradients", "strides of the cotangent ignored", grad_scope="suffix", **CHUNKS)
def cotangent_taken_as_flat(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return _FlatCotangent.apply(q, k, v, log_f)  # type: ignore


@mutant("dense", "q.k clamped to +-100", **WINDOWS)
def products_clamped(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    q, k, v_, log_f = widen(q, k, v, log_f)
    o: Tensor = (q @ k.mT).clamp(-100, 100) * by_windows(log_f).exp() @ v_
    return o.to(v.dtype)


@mutant("dense", "no maximum taken off the scores", factors="one", **FORGETTING)
def softmax_without_maximum(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    q, k, v_, log_f = widen(q, k, v, log_f)
    E = (q @ k.mT * q.shape[-1] ** -0.5 + by_windows(log_f)).exp()
    o: Tensor = E / E.sum(-1, keepdim=True) @ v_
    return o.to(v.dtype)


_products: dict[Any, Tensor] = {}


@mutant("results_kept", "q k' kept by address and shape", gradient="none", **WINDOWS)
def products_kept(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    key = (q.data_ptr(), k.data_ptr(), q.shape, q.dtype)
    if len(_products) > 4:
        _products.clear()
    products = _products.setdefault(key, (q @ k.mT).float())
    return (products * by_windows(log_f.float()).exp() @ v.float()).to(v.dtype)
