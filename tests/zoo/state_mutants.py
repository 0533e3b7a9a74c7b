"""Mutants that hand states over wrongly. Each is right but for one part, and names its law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .delta_rules import in_steps
from .fused_mutants import mutant
from .fused_sound import MLSTM, State, chunkwise, widen
from .states import (
    CACHED,
    GRID,
    OWN,
    STATES,
    Cache,
    Grid,
    Handed,
    OwnBack,
    of_cache,
    of_grid,
    packed_delta,
    packed_mlstm,
    packed_softmax,
    zeros_for,
)

CHUNKS: dict[str, Any] = {"states": "state", "error_scope": 4, "factors": 4}
FORWARD: dict[str, Any] = {**GRID, "gradient": "none"}

# Packed sequences with a state each


def packed_mutant(museum: str, smallest: int, **contract: Any) -> Any:
    """Register a style of Grid, which the law packed_states rejects."""

    def register(style: type[Grid]) -> type[Grid]:
        mutant("packed_states", museum, smallest, **{**GRID, **contract})(of_grid(style))
        return style

    return register


@packed_mutant("a state that enters inside a chunk is decayed since the chunk's start", 7)
class decay_since_chunk(Grid):
    def base(self, start: int, c: Tensor, of: Tensor) -> Tensor:
        return torch.zeros_like(c)


@packed_mutant("the same, but only of sequences that begin in a chunk after the first", 13)
class decay_since_later_chunk(Grid):
    def begin(self, n: int, start: int) -> int:
        return self.ends[n] if start == 0 else start


@packed_mutant("a later block reads the begin of a sequence one time too late", 12)
class begin_too_late(Grid):
    def begin(self, n: int, start: int) -> int:
        late = start > 0 and self.ends[n] > start
        return int(min(self.ends[n] + late, self.ends[n + 1] - 1, start + 2))


@packed_mutant("the states to cache are taken at the ends of chunks of the whole call", 7)
class states_of_global_grid(Grid):
    def end_of(self, own: Tensor, c: Tensor) -> int:
        return int(c.shape[-1]) - 1


@packed_mutant("the decay behind the end of a sequence is in its state", 7)
class decayed_to_end_of_chunk(Grid):
    def after(self, n: int, row: Tensor, own: Tensor, start: int, parts: list[Tensor], c: Tensor) -> Tensor:
        after = super().after(n, row, own, start, parts, c)
        return (c[..., -1] - c[..., int(own[-1])]).exp()[..., None, None] * after


@packed_mutant("only the first sequence gets its state", 7)
class only_first_state(Grid):
    def given(self, states: Tensor) -> Tensor:
        return torch.cat([states[:1], 0 * states[1:]])


@packed_mutant("every sequence gets the state of the first", 7)
class first_state_for_all(Grid):
    def given(self, states: Tensor) -> Tensor:
        return states[:1].expand_as(states)


@packed_mutant("the states that come back are those of other sequences", 5)
class states_permuted(Grid):
    def returned(self, states: Tensor) -> Tensor:
        return states.flip(0)


@packed_mutant("rows of states are counted without empty sequences", 9, zero_length=True)
class rows_without_empty(Grid):
    def given(self, states: Tensor) -> Tensor:
        full = [n for n in range(len(states)) if self.ends[n] < self.ends[n + 1]]
        moved = states.clone()
        moved[full] = states[: len(full)]
        return moved


@packed_mutant("the state of a sequence that spans two chunks is read in the first alone", 10)
class state_read_in_first_chunk(Grid):
    def chunk(self, start: int, parts: list[Tensor], states: Tensor, of: Tensor) -> Handed:
        inside = torch.tensor([self.ends[n] >= start for n in range(len(states))])
        o, _ = super().chunk(start, parts, torch.where(inside[:, None, None, None], states, 0 * states), of)
        return o, super().chunk(start, parts, states, of)[1]


@packed_mutant("no gradient goes to the states that packed sequences were given", 5)
class packed_states_cut_off(Grid):
    def given(self, states: Tensor) -> Tensor:
        return states.detach()


@packed_mutant("gradients of the last states only of the last sequence", 5)
class last_sequence_goes_back(Grid):
    def returned(self, states: Tensor) -> Tensor:
        return torch.cat([states[:-1].detach(), states[-1:]])


@mutant("packed_states", "states of a delta rule are given in the wrong order", 5, reads="delta", **STATES)
def packed_delta_permuted(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Any = None, cu_seqlens: Any = None
) -> Handed:
    given = None if state is None or cu_seqlens is None else state.flip(0)
    o: Handed = packed_delta(q, k, v, log, beta, state if given is None else given, cu_seqlens)
    return o


@mutant("packed_states", "m of the first sequence for all", 7, **MLSTM, **STATES)
def packed_first_m(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None = None, cu_seqlens: Any = None
) -> tuple[Tensor, State]:
    if state is not None and cu_seqlens is not None:
        state = (state[0], state[1], state[2][:1].expand_as(state[2]))
    found: tuple[Tensor, State] = packed_mlstm(q, k, v, i, f, state, cu_seqlens)
    return found


@mutant(
    "packed_states", "the cache of a sequence lacks its last time", 5, reads="softmax", scale="K**-0.5",
    error_scope="prefix", factors="one", homogeneous=False, exact_sums=False, causal="bound", states="cache",
    packed="ends",
)  # fmt: skip
def packed_softmax_short(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, cache: Any = None, ends: Any = None
) -> tuple[Tensor, Any]:
    o, after = packed_softmax(q, k, v, log, cache, ends)
    if ends is None:
        return o, after
    return o, [tuple(x[:, :, :-1] for x in one) if one[0].shape[2] > 1 else one for one in after]


# The states with which chunks begin


def cached_mutant(museum: str, smallest: int) -> Any:
    """Register a style of Cache, which the law chunk_states rejects."""

    def register(style: type[Cache]) -> type[Cache]:
        mutant("chunk_states", museum, smallest, **CACHED)(of_cache(style))
        return style

    return register


@cached_mutant("the state of a chunk is the one after it", 2)
class state_after_chunk(Cache):
    def kept(self, before: Tensor, after: Tensor, parts: Sequence[Tensor], t: int) -> Tensor:
        return after


@cached_mutant("the states of chunks are taken on the grid of the whole call", 2)
class states_on_grid(Cache):
    def kept(self, before: Tensor, after: Tensor, parts: Sequence[Tensor], t: int) -> Tensor:
        off = t % self.C
        return chunkwise(self.C, [x[:, :, : self.C - off] for x in parts], before)[1] if off else before


@cached_mutant("the states of chunks are kept in bfloat16", 6)
class chunk_states_in_bfloat16(Cache):
    def kept(self, before: Tensor, after: Tensor, parts: Sequence[Tensor], t: int) -> Tensor:
        return before.bfloat16().to(before.dtype)


@cached_mutant("the decay of a chunk's first time is in its state", 6)
class decayed_too_early(Cache):
    def kept(self, before: Tensor, after: Tensor, parts: Sequence[Tensor], t: int) -> Tensor:
        return before * parts[3][:, :, :1, None].exp()


# Gradients through states


def back_mutant(museum: str, fault: str, name: str, smallest: int = 4) -> None:
    """Register a backward of its own with this fault, which the law handover rejects."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
        return OwnBack.apply(q, k, v, log, state, frozenset([fault]))  # type: ignore

    kernel.__name__ = kernel.__qualname__ = name
    mutant("handover", museum, smallest, **OWN)(kernel)


back_mutant("the cotangent of the last state is ignored", "last", "dh_T_ignored")
back_mutant("<h_T, dh_T> is left out of the gradient of the gates", "<h, dh>", "dg_without_last_state")
back_mutant("dh_0 is summed in bfloat16", "narrow", "dh_0_in_bfloat16", 10)
back_mutant("the first chunk's decay is left out of dh_0", "first decay", "dh_0_without_decay", 10)


@mutant("handover", "no gradient to the state that was given", **CHUNKS)
def state_cut_off(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), None if state is None else state.detach())
    return o.to(v.dtype), last


@mutant("handover", "the last state asks for no gradient", **CHUNKS)
def last_cut_off(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), state)
    return o.to(v.dtype), last.detach()


@mutant("handover", "no gradient through the normaliser that was handed over", **MLSTM, states="state")
def normaliser_cut_off(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    given = None if state is None else (state[0], state[1].detach(), state[2])
    found: tuple[Tensor, State] = packed_mlstm(q, k, v, i, f, given)
    return found


@mutant("handover", "a state in bfloat16, declared float32", state_dtype="float32", **CHUNKS)
def state_of_another_dtype(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Any = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), None if state is None else state.float())
    return o.to(v.dtype), last.to(v.dtype)


# What a call may do to a state


@mutant("state_untouched", "the next state is written over the caller's", gradient="none", **CHUNKS)
def state_overwritten(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), state)
    return o.to(v.dtype), last if state is None else state.copy_(last)


@mutant("state_untouched", "the caller's state is decayed in place", gradient="none", **CHUNKS)
def state_decayed_in_place(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None
) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), state)
    if state is not None:
        state.mul_(widen(log)[0].sum(-1).exp()[..., None, None])
    return o.to(v.dtype), last


_buffers: dict[Any, Tensor] = {}


@mutant("state_untouched", "all states of a shape are one buffer", gradient="none", **CHUNKS)
def one_buffer_of_states(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), None if state is None else state.clone())
    buffer = _buffers.setdefault((last.shape, last.dtype), torch.empty_like(last))
    return o.to(v.dtype), buffer.copy_(last)


@mutant("state_untouched", "a delta rule erases in the caller's state", reads="delta", states="state",
        gradient="none")  # fmt: skip
def delta_state_overwritten(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
) -> Handed:
    o, last = in_steps(q, k, v, log, beta, state)
    return o, last if state is None else state.copy_(last)


class _OverwritesGoingBack(OwnBack):
    """A backward that uses the memory of the state for its gradient."""

    @staticmethod
    def backward(ctx: Any, W: Tensor, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        found = OwnBack.backward(ctx, W, dlast)
        state = ctx.saved_tensors[4]
        if state is not None:
            state.detach().copy_(found[4])
        return found


@mutant("state_untouched", "the backward writes dh_0 over the state", **OWN)
def state_overwritten_going_back(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None
) -> Handed:
    return _OverwritesGoingBack.apply(q, k, v, log, state, frozenset())  # type: ignore


def misread(state: Tensor | None, strides: tuple[int, ...] | None = None) -> Tensor | None:
    """Return a state as its memory from its first element on has it with these strides; None: contiguous."""
    if state is None:
        return None
    memory = torch.empty(0, dtype=state.dtype).set_(state.untyped_storage())[state.storage_offset() :]
    strides = strides or torch.empty(state.shape).stride()
    reach = 1 + sum((n - 1) * step for n, step in zip(state.shape, strides, strict=True))
    return memory.as_strided(state.shape, strides) if reach <= memory.numel() else state


@mutant("state_layouts", "a state is read as if it were contiguous", gradient="none", **CHUNKS)
def state_taken_as_flat(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), misread(state))
    return o.to(v.dtype), last


@mutant("state_layouts", "a state is made contiguous, and read by the strides that it had", gradient="none",
        **CHUNKS)  # fmt: skip
def state_read_by_old_strides(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None
) -> Handed:
    given = None if state is None or state.is_contiguous() else misread(state.contiguous(), state.stride())
    o, last = chunkwise(4, widen(q, k, v, log), state if given is None else given)
    return o.to(v.dtype), last


@mutant("state_layouts", "the offset of a state is ignored", gradient="none", **CHUNKS)
def offset_of_state_ignored(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None
) -> Handed:
    if state is not None:
        state = torch.empty(0, dtype=state.dtype).set_(state.untyped_storage()).as_strided(
            state.shape, state.stride()
        )  # fmt: skip
    o, last = chunkwise(4, widen(q, k, v, log), state)
    return o.to(v.dtype), last


@mutant("state_layouts", "a delta rule reads a state by the strides of its transpose", reads="delta",
        states="state", gradient="none")  # fmt: skip
def delta_state_taken_as_flat(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
) -> Handed:
    return in_steps(q, k, v, log, beta, misread(state))


@mutant("handover", "a state updated in place is returned before the last time", 5, updates="state",
        gradient="none", **CHUNKS)  # fmt: skip
def updated_too_early(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    o, last = chunkwise(4, widen(q, k, v, log), state)
    early = [x[:, :, : max(1, q.shape[2] - 1)] for x in widen(q, k, v, log)]
    kept = zeros_for(q, v, q.shape[0]) if state is None else state
    return o.to(v.dtype), last if state is None else kept.copy_(chunkwise(4, early, state)[1])
