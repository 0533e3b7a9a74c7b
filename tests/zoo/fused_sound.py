"""Right fused kernels (q, k, v, gates -> o) in different styles, each with the contract that it keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from dmat.testing import fused

Kernel = Callable[..., Any]  # (q, k, v, [i,] [l or f], ...) -> o, or (o, state)
Decay = Callable[[Tensor], Tensor]  # log gates (B, NH, S) -> D~ without input gate, (B, NH, S, S)

FUSED_SOUND: list[Kernel] = []
SPECIAL = ("-inf", "nan")
ALL = ("float64", "float32", "bfloat16", "float16")
ROOT = "K**-0.5"


def sound(**contract: Any) -> Callable[[Kernel], Kernel]:
    """Register a kernel under its contract."""

    def register(kernel: Kernel) -> Kernel:
        FUSED_SOUND.append(fused(kernel, **contract))
        return kernel

    return register


# Shared by most styles: widening, the mask, D~ of log gates.


def widen(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the accumulator's format: float32 for half types, else the tensor's own dtype."""
    return [x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in tensors]


def causal(S: int, diagonal: int = 0) -> Tensor:
    """The mask s <= t + diagonal, (S, S)."""
    return torch.ones(S, S, dtype=torch.bool).tril(diagonal)


def by_windows(log_f: Tensor) -> Tensor:
    """D~ of log gates. Each column is a cumulative sum that starts with zeros."""
    S = log_f.shape[-1]
    windows = torch.where(causal(S, -1), log_f[..., None], 0.0).cumsum(-2)
    return windows.masked_fill(~causal(S), -math.inf)


def by_differences(log_f: Tensor) -> Tensor:
    """D~ of log gates from differences of one cumulative sum. The mask is applied before exp."""
    c = log_f.cumsum(-1)
    return (c[..., :, None] - c[..., None, :]).masked_fill(~causal(log_f.shape[-1]), -math.inf)


def product(q: Tensor, k: Tensor, v: Tensor, E: Tensor, scale: float = 1.0) -> Tensor:
    """o = (scale q k' * E) v."""
    return scale * (q @ k.mT) * E @ v


# Parallel: the whole of E at once.


@sound(dtypes=ALL, factors="one", special_values=SPECIAL, zero_length=True)
def parallel_windows(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """All of E, from window sums."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    return product(q, k, v_, by_windows(log_f).exp()).to(v.dtype)


@sound(error_scope="prefix", factors="one", special_values=("nan",), scale=ROOT)
def parallel_differences(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """All of E, from differences of cumulative sums."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    return product(q, k, v_, by_differences(log_f).exp(), q.shape[-1] ** -0.5).to(v.dtype)


@sound(factors="one", special_values=SPECIAL, exact_sums=False)
def parallel_base_two(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """All of E, by exp2 of window sums of l log2 e, as GPU kernels compute it."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    return product(q, k, v_, torch.exp2(by_windows(log_f * math.log2(math.e)))).to(v.dtype)


@sound(igate=True, gate="preact", factors="one", scale=ROOT, special_values=SPECIAL)
def parallel_input_gate(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """All of E, with an exponential input gate and pre-activations."""
    q, k, v_, i, f = widen(q, k, v, i, f)
    E = (by_windows(logsigmoid(f)) + i[..., None, :]).exp()
    return product(q, k, v_, E, q.shape[-1] ** -0.5).to(v.dtype)


@sound(factors="one", multiplies_in="input", dtypes=("bfloat16", "float16"), special_values=SPECIAL)
def parallel_tensor_cores(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """All of E; the coefficients are rounded to the type of v before the product with it."""
    q_, k_, v_, l_ = widen(q, k, v, log_f)
    coefficients = (q_ @ k_.mT) * by_windows(l_).exp()
    return (coefficients.to(v.dtype).float() @ v_).to(v.dtype)


@sound(factors="one", gate_dtype="float32", output_dtype="float32", special_values=SPECIAL)
def parallel_float32_gates(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """All of E; gates and output are float32 for every dtype of q, k, v."""
    q, k, v, log_f = widen(q, k, v, log_f)
    return product(q, k, v, by_windows(log_f).exp())


@sound(weight="dt", factors="one", error_scope="prefix")
def parallel_weighted(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Mamba-2 with A = -1: the source is weighted by dt = -l."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    return product(q, k, -log_f[..., None] * v_, by_differences(log_f).exp()).to(v.dtype)


@sound(
    reads="softmax",
    scale=ROOT,
    V_equals_K=True,
    gate="preact",
    error_scope="prefix",
    factors="one",
    homogeneous=False,
    exact_sums=False,
    special_values=("nan",),
)
def forgetting_attention(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """Softmax attention with D~ added to the logits."""
    q, k, v_, f = widen(q, k, v, f)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + by_differences(logsigmoid(f))
    return (torch.softmax(logits, -1) @ v_).to(v.dtype)


class OnlineSoftmax(torch.autograd.Function):
    """Forgetting attention over tiles of 4 keys with a running maximum and sum; the backward is tiled."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, faults: frozenset[str]) -> Tensor:
        """Return o. Keep the logarithm of each row's divisor for the backward."""
        logits, v_ = online_logits(q, k, log_f, faults), widen(v)[0]
        m = torch.full_like(v_[..., :1], -math.inf)
        n, o = torch.zeros_like(m), torch.zeros_like(v_)
        for start in range(0, v.shape[2], 4):
            tile = logits[..., start : start + 4]
            higher = torch.maximum(m, tile.amax(-1, keepdim=True))
            safe = torch.where(higher == -math.inf, 0.0, higher)
            decay, p = (m - safe).exp(), (tile - safe).exp()
            n = n * decay + p.sum(-1, keepdim=True)
            o = o * (1.0 if "rescaling" in faults else decay) + p @ v_[:, :, start : start + 4]
            m = higher
        out = (o / n).to(v.dtype)
        lse = m + n.log()
        ctx.save_for_backward(q, k, v, log_f, out, lse.to(v.dtype) if "narrow lse" in faults else lse)
        ctx.faults = faults
        return out

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, from recomputed probabilities."""
        q, k, v, log_f, out, lse = ctx.saved_tensors
        faults: frozenset[str] = ctx.faults
        P = (online_logits(q, k, log_f, faults) - lse).exp()
        q_, k_, v_, W_, out_ = widen(q, k, v, W, out)
        along = 0.0 if "delta" in faults else (W_ * out_).sum(-1, keepdim=True)
        X, scale = P * (W_ @ v_.mT - along), q.shape[-1] ** -0.5
        dq, dk, dv = scale * X @ k_, (1.0 if "dk" in faults else scale) * X.mT @ q_, P.mT @ W_
        columns = 0.0 if "columns" in faults else X.sum(-2)
        dlog = (X.sum(-1) - columns).flip(-1).cumsum(-1).flip(-1)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dlog.to(log_f.dtype), None


def online_logits(q: Tensor, k: Tensor, log_f: Tensor, faults: frozenset[str]) -> Tensor:
    """Return the logits of OnlineSoftmax."""
    q_, k_, log_f = widen(q, k, log_f)
    D = by_differences(log_f)
    if "own gate" in faults:
        D = D + log_f[..., None, :]
    return (1.0 if "scale" in faults else q.shape[-1] ** -0.5) * q_ @ k_.mT + D


FORGETTING: dict[str, Any] = {
    "reads": "softmax",
    "scale": ROOT,
    "error_scope": "prefix",
    "homogeneous": False,
    "exact_sums": False,
}


@sound(**FORGETTING)
def forgetting_online(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Softmax attention over tiles, with a backward of its own."""
    o: Tensor = OnlineSoftmax.apply(q, k, v, log_f, frozenset())  # type: ignore
    return o


def retention_gates(NH: int) -> Tensor:
    """The fixed log gates of retention, log(1 - 2^(-5 - h))."""
    return torch.log1p(-(2.0 ** (-5.0 - torch.arange(NH, dtype=torch.float64))))


@sound(gate="fixed", fixed=retention_gates, scale=ROOT, factors="one")
def retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """E from powers of fixed gates: exp((t - s) l)."""
    q, k, v_ = widen(q, k, v)
    t = torch.arange(q.shape[2])
    D = (t[:, None] - t) * retention_gates(q.shape[1]).to(q.dtype)[:, None, None]
    E = D.masked_fill(~causal(len(t)), -math.inf).exp()
    return product(q, k, v_, E, q.shape[-1] ** -0.5).to(v.dtype)


# Chunkwise: differences of cumulative sums within a chunk, and a state between chunks.


def cut(C: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Pad the time axis, 2, with zeros to a multiple of C, and cut it into chunks."""
    missing = -tensors[0].shape[2] % C
    padded = [pad(x, (0, missing) if x.dim() == 3 else (0, 0, 0, missing)) for x in tensors]
    return list(zip(*(torch.split(x, C, 2) for x in padded), strict=True))


def chunkwise(C: int, inputs: Sequence[Tensor], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return o and the last state for q, k, v, l, in chunks of C; all in the accumulator's format."""
    q, k, v, log_f = inputs
    S, outputs = q.shape[2], []
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    for q_, k_, v_, l_ in cut(C, q, k, v, log_f):
        c = l_.cumsum(-1)[..., None]
        outputs.append(product(q_, k_, v_, by_differences(l_).exp()) + q_ * c.exp() @ state)
        last = c[..., -1:, :]
        state = last.exp() * state + (k_ * (last - c).exp()).mT @ v_
    return torch.cat(outputs, 2)[:, :, :S], state


def in_chunks_of(C: int) -> Kernel:
    """Return the kernel in chunks of C, with states, differentiated by autograd."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        o, state = chunkwise(C, widen(q, k, v, log_f), state)
        return o.to(v.dtype), state

    kernel.__name__ = f"chunks_of_{C}"
    return kernel


for size, dtypes in ((4, ALL), (16, ALL[1:])):
    in_chunks = sound(error_scope=size, factors=size, states="state", special_values=("nan",), dtypes=dtypes)
    in_chunks(in_chunks_of(size))


@sound(error_scope=4, factors=4, packed="cu_seqlens", layout="BSHD", special_values=("nan",))
def chunks_packed(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """In chunks of 4. Packed sequences are computed one by one; the time axis is before the head axis."""
    S = q.shape[1]
    ends = [0, S] if cu_seqlens is None else cu_seqlens.tolist()
    inputs = [x.transpose(1, 2) for x in widen(q, k, v, log_f)]
    spans = [slice(a, b) for a, b in itertools.pairwise(ends) if a < b]
    parts = [chunkwise(4, [x[:, :, span] for x in inputs])[0] for span in spans]
    return torch.cat(parts, 2).transpose(1, 2).to(v.dtype)


@sound(error_scope=4, factors=4, l_min=-5.0, causal="bound")
def chunks_factored(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """In chunks of 4, with E = exp(c[t] - c[last]) exp(c[last] - c[s]), as GLA does for tensor cores."""
    S, outputs = q.shape[2], []
    state: Any = 0.0
    for q_, k_, v_, l_ in cut(4, *widen(q, k, v, log_f)):
        c = l_.cumsum(-1)[..., None]
        last = c[..., -1:, :]
        left, right = q_ * (c - last).exp(), k_ * (last - c).exp()
        inside = (left @ right.mT).masked_fill(~causal(4), 0.0) @ v_
        carry = q_ * c.exp() @ state if isinstance(state, Tensor) else 0.0
        outputs.append(inside + carry)
        state = last.exp() * state + right.mT @ v_
    return torch.cat(outputs, 2)[:, :, :S].to(v.dtype)


class Chunks(torch.autograd.Function):
    """In chunks of 4, with the usual backward of kernels: it passes the state's gradient between chunks."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, log_f)
        ctx.state = state
        o, state = chunkwise(4, widen(q, k, v, log_f), state)
        ctx.mark_non_differentiable(state)
        return o.to(v.dtype), state

    @staticmethod
    def backward(ctx: Any, W: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        W, q, k, v, log_f = widen(W, *inputs)
        gradients = chunk_gradients(4, W, q, k, v, log_f, ctx.state)
        return *(x.to(of.dtype) for x, of in zip(gradients, inputs, strict=True)), None


def chunk_gradients(
    C: int, W: Tensor, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dq, dk, dv, dl. dl is a reverse cumulative sum of q.dq - k.dk. state: the initial state."""
    S, zeros = q.shape[2], q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    states = [zeros if state is None else state]
    chunks = cut(C, W, q, k, v, log_f)
    for _, _, k_, v_, l_ in chunks[:-1]:
        c = l_.cumsum(-1)[..., None]
        states.append(c[..., -1:, :].exp() * states[-1] + (k_ * (c[..., -1:, :] - c).exp()).mT @ v_)
    dstate = torch.zeros_like(states[0])
    found = []
    for (W_, q_, k_, v_, l_), state in zip(reversed(chunks), reversed(states), strict=True):
        c, E = l_.cumsum(-1)[..., None], by_differences(l_).exp()
        tail, slope = (c[..., -1:, :] - c).exp(), W_ @ v_.mT * E
        dq = slope @ k_ + c.exp() * (W_ @ state.mT)
        dk = slope.mT @ q_ + tail * (v_ @ dstate.mT)
        dv = (q_ @ k_.mT * E).mT @ W_ + tail * (k_ @ dstate)
        found.append((dq, dk, dv))
        dstate = c[..., -1:, :].exp() * dstate + (q_ * c.exp()).mT @ W_
    dq, dk, dv = (torch.cat(parts, 2)[:, :, :S] for parts in zip(*reversed(found), strict=True))
    dl = (q * dq - k * dk).sum(-1).flip(-1).cumsum(-1).flip(-1)
    return dq, dk, dv, dl


@sound(
    error_scope=4, factors=4, grad_scope="suffix", states="initial_state", state_gradients=False,
    special_values=("nan",),
)  # fmt: skip
def chunks_own_backward(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In chunks of 4, with a backward of its own."""
    return Chunks.apply(q, k, v, log_f, initial_state)  # type: ignore


# Recurrent: one step after another.


@sound(states="state", special_values=SPECIAL, dtypes=ALL)
def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """State <- exp(l) state + k v'; o = q state."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    outputs = []
    for t in range(q.shape[2]):
        state = log_f[:, :, t, None, None].exp() * state + k[:, :, t, :, None] * v_[:, :, t, None, :]
        outputs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outputs, 2).to(v.dtype), state


@sound(layout="BSHD", gate="preact", gates="absolute", special_values=SPECIAL)
def recurrent_time_first(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """`recurrent` in layout (B, S, NH, K), with sigmoid instead of exp of log sigmoid."""
    q, k, v_, f = widen(q, k, v, f)
    B, S, NH, K = q.shape
    state, outputs = q.new_zeros(B, NH, K, v.shape[-1]), []
    for t in range(S):
        state = f[:, t, :, None, None].sigmoid() * state + k[:, t, :, :, None] * v_[:, t, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1).to(v.dtype)


# Scans.


@sound(special_values=("nan",))
def doubling_scan(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Associative scan of (decay, state) by doubling (Hillis and Steele)."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    decay, state = log_f.exp()[..., None, None], k[..., :, None] * v_[..., None, :]
    step = 1
    while step < q.shape[2]:
        earlier = pad(state[:, :, :-step], (0, 0, 0, 0, step, 0))
        state = state + decay * earlier
        decay = decay * pad(decay[:, :, :-step], (0, 0, 0, 0, step, 0), value=1.0)
        step *= 2
    return (q[..., None] * state).sum(-2).to(v.dtype)


@sound(positive=True, homogeneous=False, exact_sums=False, error_scope="prefix", factors="one")
def log_space_scan(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Heinsen's scan: exp(a + logcumsumexp(log(k v) - a)), where a is the cumulative sum. log 0 is -300."""
    q, k, v_, log_f = widen(q, k, v, log_f)
    a = log_f.cumsum(-1)[..., None, None]
    kv = k[..., :, None] * v_[..., None, :]
    logs = torch.where(kv > 0, kv.clamp(min=1e-30).log(), -300.0)
    state = (a + torch.logcumsumexp(logs - a, 2)).exp()
    return (q[..., None] * state).sum(-2).to(v.dtype)


# mLSTM: divided by max(|n|, 1), stabilised.


def stabilised(q: Tensor, k: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients times e^-m, and their divisor max(|n|, e^-m)."""
    m = D.amax(-1, keepdim=True).detach()
    a = q @ k.mT * q.shape[-1] ** -0.5 * (D - m).exp()
    return a, torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp())


MLSTM: dict[str, Any] = {"reads": "mlstm", "gate": "preact", "igate": True, "scale": ROOT}


@sound(**MLSTM, factors="one", dtypes=ALL)
def mlstm_parallel(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """All of E, stabilised by the row's maximum."""
    q, k, v_, i, f = widen(q, k, v, i, f)
    a, normaliser = stabilised(q, k, by_windows(logsigmoid(f)) + i[..., None, :])
    return (a / normaliser @ v_).to(v.dtype)


@sound(**MLSTM, factors="one", i_range=(-60.0, 60.0), special_values=("nan",))
def mlstm_parallel_far_gates(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """`mlstm_parallel` for input gates far from 0."""
    o: Tensor = mlstm_parallel(q, k, v, i, f)
    return o


@sound(**MLSTM, factors="one", error_scope="prefix", layout="BSHD")
def mlstm_parallel_differences(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The parallel mLSTM by differences of cumulative sums. Time stands before heads; it divides last."""
    q, k, v_, i, f = (x.transpose(1, 2) for x in widen(q, k, v, i, f))
    a, normaliser = stabilised(q, k, by_differences(logsigmoid(f)) + i[..., None, :])
    return (a @ v_ / normaliser).transpose(1, 2).to(v.dtype)


class _Truncated(torch.autograd.Function):
    """mLSTM whose backward holds the normaliser constant."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, i, f)
        q, k, v_, i, f = widen(q, k, v, i, f)
        a, normaliser = stabilised(q, k, by_windows(logsigmoid(f)) + i[..., None, :])
        return (a / normaliser @ v_).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, ...]:
        q, k, v, i, f, W = widen(*ctx.saved_tensors, W)
        scale = q.shape[-1] ** -0.5
        D = by_windows(logsigmoid(f)) + i[..., None, :]
        a, normaliser = stabilised(q, k, D)
        per_product = (D - D.amax(-1, keepdim=True)).exp() / normaliser * (W @ v.mT)
        dq, dk = scale * (per_product @ k), scale * (per_product.mT @ q)
        rows, columns = (q * dq).sum(-1), (k * dk).sum(-1)
        df = (rows - columns).flip(-1).cumsum(-1).flip(-1) * torch.sigmoid(-f)
        gradients = (dq, dk, (a / normaliser).mT @ W, columns, df)
        return tuple(x.to(of.dtype) for x, of in zip(gradients, ctx.saved_tensors, strict=True))


@sound(**MLSTM, factors="one", gradient="truncated", grad_scope="suffix")
def mlstm_truncated(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The parallel form with the backward of mlstm_kernels."""
    return _Truncated.apply(q, k, v, i, f)  # type: ignore


State = tuple[Tensor, Tensor, Tensor]  # the matrix, the normaliser, m


def mlstm_zeros(q: Tensor, V: int) -> State:
    """The state before the first step."""
    B, NH, _, K = q.shape
    return q.new_zeros(B, NH, K, V), q.new_zeros(B, NH, K, 1), q.new_zeros(B, NH, 1, 1)


@sound(**MLSTM, states="state")
def mlstm_recurrent(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    """One step after another, with a running m."""
    q, k, v_, i, f = widen(q, k, v, i, f)
    q, log_f = q * q.shape[-1] ** -0.5, logsigmoid(f)
    C, n, m = mlstm_zeros(q, v.shape[-1]) if state is None else state
    outputs = []
    for t in range(q.shape[2]):
        now = slice(t, t + 1)
        i_, l_ = i[:, :, now, None], log_f[:, :, now, None]
        grown = torch.maximum(l_ + m, i_)
        decay, gate = (l_ + m - grown).exp(), (i_ - grown).exp()
        C = decay * C + gate * k[:, :, now].mT @ v_[:, :, now]
        n, m = decay * n + gate * k[:, :, now].mT, grown
        outputs.append(q[:, :, now] @ C / torch.maximum((q[:, :, now] @ n).abs(), (-m).exp()))
    return torch.cat(outputs, 2).to(v.dtype), (C, n, m)


def mlstm_chunk(inputs: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
    """Compute one chunk of q, k, v, i, l. q is already scaled; i and l have a last axis of 1."""
    (q, k, v, i, log_f), (C, n, m) = inputs, state
    c = log_f.cumsum(-2)
    D = by_differences(log_f[..., 0]) + i.mT
    highest = torch.maximum(D.amax(-1, keepdim=True), c + m)
    a, carried = q @ k.mT * (D - highest).exp(), q * (c + m - highest).exp()
    below = torch.maximum((a.sum(-1, keepdim=True) + carried @ n).abs(), (-highest).exp())
    o = (a @ v + carried @ C) / below
    last = c[..., -1:, :]
    grown = torch.maximum(last + m, (last - c + i).amax(-2, keepdim=True))
    decay, sources = (last + m - grown).exp(), (k * (last - c + i - grown).exp()).mT
    return o, (decay * C + sources @ v, decay * n + sources.sum(-1, keepdim=True), grown)


@sound(**MLSTM, states="state", error_scope=4, factors=4)
def mlstm_chunks(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    """In chunks of 4; the last may be shorter."""
    q, k, v_, i, f = widen(q, k, v, i, f)
    q, log_f = q * q.shape[-1] ** -0.5, logsigmoid(f)
    state, outputs = mlstm_zeros(q, v.shape[-1]) if state is None else state, []
    inputs = (q, k, v_, i[..., None], log_f[..., None])
    for parts in zip(*(torch.split(x, 4, 2) for x in inputs), strict=True):
        o, state = mlstm_chunk(parts, state)
        outputs.append(o)
    return torch.cat(outputs, 2).to(v.dtype), state
