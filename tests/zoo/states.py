"""Right kernels that hand states over: with packed sequences, with gradients through states, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dmat.testing import fused

from .delta_rules import in_steps
from .delta_sound import delta_chunks
from .fused_sound import MLSTM, ROOT, Kernel, State, by_differences, chunkwise, mlstm_recurrent, widen

STATES_SOUND: list[Kernel] = []
STATES: dict[str, Any] = {"states": "state", "packed": "cu_seqlens"}
GRID: dict[str, Any] = {**STATES, "error_scope": 4, "factors": 4}
OWN: dict[str, Any] = {"states": "state", "error_scope": 4, "factors": 4, "grad_scope": "suffix"}
Handed = tuple[Tensor, Tensor]


def right(**contract: Any) -> Callable[[Kernel], Kernel]:
    """Register a kernel under its contract."""

    def register(kernel: Kernel) -> Kernel:
        STATES_SOUND.append(fused(kernel, **contract))
        return kernel

    return register


def zeros_for(q: Tensor, v: Tensor, rows: int) -> Tensor:
    """Return a state of zeros in the accumulator's format, (rows, NH, K, V)."""
    return widen(q)[0].new_zeros(rows, v.shape[1], q.shape[-1], v.shape[-1])


def step(S: Tensor, q: Tensor, k: Tensor, v: Tensor, log: Tensor) -> Handed:
    """Return the state after one time, and its output. q, k, v: (B, NH, n); log: (B, NH)."""
    S = log.exp()[..., None, None] * S + k[..., :, None] * v[..., None, :]
    return S, (q[..., None, :] @ S)[..., 0, :]


# Packed sequences with a state each


def by_sequence(
    one: Callable[..., tuple[Tensor, Any]], inputs: Sequence[Tensor], states: Sequence[Any], ends: list[int]
) -> tuple[Tensor, list[Any]]:
    """Call a kernel on one packed sequence after another. Return o and the states that it returns."""
    outputs, last = [], []
    for (start, end), state in zip(pairwise(ends), states, strict=True):
        if start == end:
            last.append(state)
            continue
        o, after = one(*(x[:, :, start:end] for x in inputs), state)
        outputs.append(o)
        last.append(after)
    return torch.cat(outputs, 2) if outputs else inputs[2], last


@right(**STATES, zero_length=True, special_values=("-inf", "nan"))
def packed_steps(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None, cu_seqlens: Any = None
) -> Handed:
    """One time after another; each packed sequence has a row of states."""
    q_, k_, v_, l_ = widen(q, k, v, log)
    S, number = q.shape[2], q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    states = zeros_for(q, v, number) if state is None else state
    rows, ends = list(torch.split(states, 1)), None if cu_seqlens is None else cu_seqlens[1:]
    outputs = []
    for t in range(S):
        if ends is None:
            states, o = step(states, q_[:, :, t], k_[:, :, t], v_[:, :, t], l_[:, :, t])
        else:
            n = int(torch.searchsorted(ends, t, right=True))
            rows[n], o = step(rows[n], q_[:, :, t], k_[:, :, t], v_[:, :, t], l_[:, :, t])
        outputs.append(o)
    out = torch.stack(outputs, 2) if outputs else v_
    return out.to(v.dtype), states if ends is None else torch.cat(rows)


@right(**GRID, scale=ROOT, state_dtype="float32")
def packed_split(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None, cu_seqlens: Any = None
) -> Handed:
    """In chunks of 4 that begin with each packed sequence."""
    q_, k_, v_, l_ = widen(q * 1, k, v, log)
    inputs = [q_ * q.shape[-1] ** -0.5, k_, v_, l_]
    if cu_seqlens is None:
        o, last = chunkwise(4, inputs, state)
        return o.to(v.dtype), last
    ends = cu_seqlens.tolist()
    states = zeros_for(q, v, len(ends) - 1) if state is None else state
    o, rows = by_sequence(lambda *x: chunkwise(4, x[:-1], x[-1]), inputs, torch.split(states, 1), ends)
    return o.to(v.dtype), torch.cat(rows)


class Grid:
    """Linear attention in chunks of 4 of the call, whatever sequences are in them: masks cut them apart.

    A part that a wrong kernel changes is a method.
    """

    C = 4

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log: Tensor,
        state: Tensor | None = None,
        cu_seqlens: Any = None,
    ) -> Handed:
        """Return o and the states."""
        if q.shape[2] == 0:
            return v, zeros_for(q, v, q.shape[0]) if state is None else state
        if cu_seqlens is None:
            o, last = chunkwise(self.C, widen(q, k, v, log), state)
            return o.to(v.dtype), last
        self.ends = cu_seqlens.tolist()
        number = len(self.ends) - 1
        states = self.given(zeros_for(q, v, number) if state is None else state)
        self.of = torch.bucketize(torch.arange(q.shape[2]), cu_seqlens[1:], right=True)
        outputs = []
        for start in range(0, q.shape[2], self.C):
            at = slice(start, start + self.C)
            parts = [x[:, :, at] for x in widen(q, k, v, log)]
            o, states = self.chunk(start, parts, states, self.of[at])
            outputs.append(o)
        return torch.cat(outputs, 2).to(v.dtype), self.returned(states)

    def given(self, states: Tensor) -> Tensor:
        """Return the states that the sequences begin with."""
        return states

    def returned(self, states: Tensor) -> Tensor:
        """Return the states as the call returns them."""
        return states

    def chunk(self, start: int, parts: list[Tensor], states: Tensor, of: Tensor) -> Handed:
        """Return the output of a chunk, and the states after it. of: the sequence of each time."""
        q, k, v, log = parts
        c = log.cumsum(-1)
        E = by_differences(log).exp() * (of[:, None] == of[None, :])
        read = (c - self.base(start, c, of)).exp()[..., None] * q
        o = (q @ k.mT) * E @ v + (read[..., None, :] @ states[of].movedim(0, 1)[None])[..., 0, :]
        rows = list(torch.split(states, 1))
        for n in torch.unique(of).tolist():
            rows[n] = self.after(n, rows[n], (of == n).nonzero()[:, 0], start, parts, c)
        return o, torch.cat(rows)

    def base(self, start: int, c: Tensor, of: Tensor) -> Tensor:
        """Return the sum of the gates of the chunk before each time's sequence begins, (B, NH, C)."""
        begins = [max(self.begin(n, start) - start, 0) for n in of.tolist()]
        before = torch.cat([torch.zeros_like(c[..., :1]), c], -1)
        return before[..., begins]

    def begin(self, n: int, start: int) -> int:
        """Return the time at which a sequence begins, as the chunk at `start` reads it."""
        return int(self.ends[n])

    def after(self, n: int, row: Tensor, own: Tensor, start: int, parts: list[Tensor], c: Tensor) -> Tensor:
        """Return the state of a sequence after this chunk. own: its times in the chunk."""
        _, k, v, _ = parts
        last = self.end_of(own, c)
        base = self.base(start, c, self.of[start + own])[..., :1]
        decay = (c[..., last : last + 1] - c[..., own]).exp()[..., None]
        sources = (k[:, :, own] * decay).mT @ v[:, :, own]
        return (c[..., last : last + 1] - base).exp()[..., None] * row + sources

    def end_of(self, own: Tensor, c: Tensor) -> int:
        """Return the place in the chunk at which the state of a sequence is taken."""
        return int(own[-1])


def of_grid(style: type[Grid]) -> Kernel:
    """Return a style as a function."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None, cu_seqlens: Any = None
    ) -> Handed:
        return style()(q, k, v, log, state, cu_seqlens)

    kernel.__name__ = kernel.__qualname__ = style.__name__
    return kernel


class packed_grid(Grid):
    """As it stands."""


right(**GRID, zero_length=True)(of_grid(packed_grid))


@right(**GRID, updates="state", gradient="none")
def packed_in_place(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None, cu_seqlens: Any = None
) -> Handed:
    """In chunks of 4; the next state is written into the state that was given."""
    with torch.no_grad():
        o, last = Grid()(q, k, v, log, state, cu_seqlens)
        return o, last if state is None else state.copy_(last)


@right(reads="delta", **STATES)
def packed_delta(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Any = None, cu_seqlens: Any = None
) -> Handed:
    """A delta rule step by step, one packed sequence after another."""
    if cu_seqlens is None:
        return in_steps(q, k, v, log, beta, state)
    ends = cu_seqlens.tolist()
    states = zeros_for(q, v, len(ends) - 1) if state is None else state
    o, rows = by_sequence(in_steps, (q, k, v, log, beta), torch.split(states, 1), ends)
    return o, torch.cat(rows)


@right(reads="delta", **GRID, zero_length=True, state_layout="BHVK")
def packed_delta_chunks(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Any = None, cu_seqlens: Any = None
) -> Handed:
    """A delta rule in chunks of 4 that begin with each packed sequence; a state is (N, NH, V, K)."""
    given = None if state is None else state.mT
    if q.shape[2] == 0:
        return v, zeros_for(q, v, q.shape[0] if given is None else len(given)).mT if given is None else state
    if cu_seqlens is None:
        o, last = delta_chunks()(q, k, v, log, beta, given)
        return o, last.mT
    ends = cu_seqlens.tolist()
    states = zeros_for(q, v, len(ends) - 1) if given is None else given
    o, rows = by_sequence(delta_chunks(), (q, k, v, log, beta), torch.split(states, 1), ends)
    return o, torch.cat(rows).mT


@right(**MLSTM, **STATES)
def packed_mlstm(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None = None, cu_seqlens: Any = None
) -> tuple[Tensor, State]:
    """An mLSTM step by step; a state is (C, n, m), each with a row for each packed sequence."""
    if cu_seqlens is None:
        found: tuple[Tensor, State] = mlstm_recurrent(q, k, v, i, f, state)
        return found
    ends = cu_seqlens.tolist()
    number = len(ends) - 1
    rows: Any = (
        [None] * number if state is None else list(zip(*(torch.split(x, 1) for x in state), strict=True))
    )
    o, last = by_sequence(mlstm_recurrent, (q, k, v, i, f), rows, ends)
    C, n, m = (torch.cat(parts) for parts in zip(*last, strict=True))
    return o, (C, n, m)


# The states with which chunks begin

CACHED: dict[str, Any] = {**GRID, "chunk_states": 4, "gradient": "none"}
Cached = tuple[Tensor, Tensor, list[Tensor]]


class Cache:
    """Linear attention in chunks of 4 of each sequence, which returns the state before each chunk.

    A part that a wrong kernel changes is a method.
    """

    C = 4

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log: Tensor,
        state: Tensor | None = None,
        cu_seqlens: Any = None,
    ) -> Cached:
        """Return o, the last states and the states of chunks."""
        inputs, number = widen(q, k, v, log), q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        first = zeros_for(q, v, number) if state is None else state
        if cu_seqlens is None:
            o, last, states = self.sequence(inputs, first, 0)
            return o.to(v.dtype), last, states
        outputs, rows, every = [], list[Tensor](), list[Tensor]()
        for (start, end), row in zip(pairwise(cu_seqlens.tolist()), torch.split(first, 1), strict=True):
            o, last, states = self.sequence([x[:, :, start:end] for x in inputs], row, start)
            outputs.append(o)
            rows.append(last)
            every += states
        return torch.cat(outputs, 2).to(v.dtype), torch.cat(rows), every

    def sequence(self, inputs: Sequence[Tensor], state: Tensor, start: int) -> Cached:
        """Return the output, the last state and the states of one sequence, which begins at `start`."""
        outputs, states = [], list[Tensor]()
        for at in range(0, inputs[0].shape[2], self.C):
            parts = [x[:, :, at : at + self.C] for x in inputs]
            o, after = chunkwise(self.C, parts, state)
            outputs.append(o)
            states.append(self.kept(state, after, parts, start + at))
            state = after
        return torch.cat(outputs, 2), state, states

    def kept(self, before: Tensor, after: Tensor, parts: Sequence[Tensor], t: int) -> Tensor:
        """Return the state that is kept of a chunk. t: the time of the whole call at which it begins."""
        return before


def of_cache(style: type[Cache]) -> Kernel:
    """Return a style as a function."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None, cu_seqlens: Any = None
    ) -> Cached:
        return style()(q, k, v, log, state, cu_seqlens)

    kernel.__name__ = kernel.__qualname__ = style.__name__
    return kernel


class chunk_states(Cache):
    """As it stands."""


right(**CACHED)(of_cache(chunk_states))


@right(reads="delta", states="state", chunk_states=3, gradient="none")
def delta_chunk_states(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Any = None
) -> Cached:
    """A delta rule step by step; the state before every third time is returned."""
    outputs, states = [], list[Tensor]()
    for at in range(0, q.shape[2], 3):
        states.append(zeros_for(q, v, q.shape[0]) if state is None else state)
        q_, k_, v_, l_, b_ = (x[:, :, at : at + 3] for x in (q, k, v, log, beta))
        o, state = in_steps(q_, k_, v_, l_, b_, state)
        outputs.append(o)
    return torch.cat(outputs, 2), state, states


def attend(q: Tensor, k: Tensor, v: Tensor, log: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Forgetting attention with a cache of keys, values and log gates."""
    n = 0 if cache is None else cache[0].shape[2]
    every = (
        [k, v, log] if cache is None else [torch.cat(two, 2) for two in zip(cache, (k, v, log), strict=True)]
    )
    q_, k_, v_, l_ = widen(q, *every)
    D = by_differences(l_)[..., n:, :]
    o = torch.softmax(q_ @ k_.mT * q.shape[-1] ** -0.5 + D, -1) @ v_
    return o.to(v.dtype), tuple(every)


@right(
    reads="softmax", scale=ROOT, error_scope="prefix", factors="one", homogeneous=False, exact_sums=False,
    causal="bound", states="cache", packed="ends",
)  # fmt: skip
def packed_softmax(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, cache: Any = None, ends: Any = None
) -> tuple[Tensor, Any]:
    """Forgetting attention; a state of packed sequences is a list of their caches."""
    if ends is None:
        return attend(q, k, v, log, cache)
    every = ends.tolist()
    caches = [None] * (len(every) - 1) if cache is None else cache
    return by_sequence(attend, (q, k, v, log), caches, every)


# A backward of its own, which takes the cotangent of the last state and returns that of the first


class OwnBack(torch.autograd.Function):
    """Chunks of 4, with the usual backward of kernels. faults: the parts that a wrong kernel leaves out."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None, faults: frozenset[str]
    ) -> Handed:
        o, last = chunkwise(4, widen(q, k, v, log), state)
        ctx.save_for_backward(q, k, v, log, state, last)
        ctx.faults = faults
        return o.to(v.dtype), last

    @staticmethod
    def backward(ctx: Any, W: Tensor, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log, state, last = ctx.saved_tensors
        faults: frozenset[str] = ctx.faults
        W_, q_, k_, v_, l_ = widen(W, q, k, v, log)
        first = zeros_for(q, v, q.shape[0]) if state is None else state
        dS = torch.zeros_like(first) if dlast is None or "last" in faults else dlast
        h_dh = (last * dS).sum((-1, -2))
        states, found, S = [first], [], q.shape[2]
        spans = [slice(start, min(start + 4, S)) for start in range(0, S, 4)]
        for at in spans:
            states.append(chunkwise(4, [x[:, :, at] for x in (q_, k_, v_, l_)], states[-1])[1])
        for at, h in zip(reversed(spans), reversed(states[:-1]), strict=True):
            w, x, y, z, g = (one[:, :, at] for one in (W_, q_, k_, v_, l_))
            c, E = g.cumsum(-1)[..., None], by_differences(g).exp()
            tail, slope = (c[..., -1:, :] - c).exp(), w @ z.mT * E
            found.append((
                slope @ y + c.exp() * (w @ h.mT),
                slope.mT @ x + tail * (z @ dS.mT),
                (x @ y.mT * E).mT @ w + tail * (y @ dS),
            ))  # fmt: skip
            decayed = dS if "first decay" in faults and at.start == 0 else c[..., -1:, :].exp() * dS
            own = (x * c.exp()).mT @ w
            dS = (decayed.bfloat16() + own.bfloat16()).to(dS.dtype) if "narrow" in faults else decayed + own
        dq, dk, dv = (torch.cat(parts, 2) for parts in zip(*reversed(found), strict=True))
        dl = (q_ * dq - k_ * dk).sum(-1).flip(-1).cumsum(-1).flip(-1)
        dl = dl + (0 if "<h, dh>" in faults else h_dh[..., None])
        gradients = zip((dq, dk, dv, dl), (q, k, v, log), strict=True)
        return *(x.to(like.dtype) for x, like in gradients), None if state is None else dS, None


@right(**OWN, special_values=("nan",))
def own_backward(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    """In chunks of 4; dg is a reverse cumulative sum of q.dq - k.dk, and <h_T, dh_T>."""
    return OwnBack.apply(q, k, v, log, state, frozenset())  # type: ignore


@right(states="state", updates="state")
def steps_in_place(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    """One time after another, in the memory of the state, with gradients."""
    q_, k_, v_, l_ = widen(q, k, v, log)
    S, outputs = zeros_for(q, v, q.shape[0]) if state is None else state, []
    for t in range(q.shape[2]):
        after, o = step(S.clone(), q_[:, :, t], k_[:, :, t], v_[:, :, t], l_[:, :, t])
        S.copy_(after)
        outputs.append(o)
    return torch.stack(outputs, 2).to(v.dtype), S


@right(states="state", error_scope=4, factors=4)
def refuses_strides(q: Tensor, k: Tensor, v: Tensor, log: Tensor, state: Tensor | None = None) -> Handed:
    """In chunks of 4; a state that is not contiguous is refused."""
    if state is not None and not state.is_contiguous():
        raise ValueError("state must be contiguous")
    o, last = chunkwise(4, widen(q, k, v, log), state)
    return o.to(v.dtype), last.contiguous()
