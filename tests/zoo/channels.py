"""Kernels with gates by channel, and with value heads that share a key head: right ones of unlike styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dmat.testing import fused
from dmat.testing.kernel.load import load

from .fused_sound import by_windows

Kernel = Callable[..., Any]


def promising(**promises: Any) -> Callable[[Kernel], Kernel]:
    """Return a decorator that states these promises."""
    return lambda fn: fused(fn, **promises)


BY_CHANNEL: dict[str, Any] = {"reads": "linear", "gates_by": "channel", "K": (1, 4, 16)}
CHUNK = 8
EXAMPLE = load(f"{Path(__file__).parents[2] / 'examples' / 'fused' / 'kda.py'}:kda")


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


@promising(**BY_CHANNEL, states="state")
def gla_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A gated linear attention, token by token: g (B, NH, S, K)."""
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    B, NH, S, K = q.shape
    h = q.new_zeros(B, NH, K, v.shape[-1]) if state is None else state
    rows = []
    for t in range(S):
        h = h * g[:, :, t, :, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out), h


@promising(**BY_CHANNEL, factors="one")
def gla_parallel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A gated linear attention, all rows at once: a window of each channel is summed on its own."""
    out, S = v.dtype, q.shape[2]
    q, k, v, g = _wide(q, k, v, g)
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    windows = g[:, :, :, None].expand(-1, -1, -1, S, -1).masked_fill(~causal.tril(-1)[..., None], 0.0)
    decay = windows.cumsum(2).masked_fill(~causal[..., None], -torch.inf).exp()
    a = torch.einsum("bhtd,bhsd,bhtsd->bhts", q, k, decay)
    return (a @ v).to(out)


@promising(**BY_CHANNEL, gate="preact", layout="BSHD", error_scope=CHUNK, factors=CHUNK)
def gla_chunks(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """A gated linear attention in chunks, pairs within a chunk by differences of its sums."""
    out = v.dtype
    q, k, v, f = (x.transpose(1, 2) for x in _wide(q, k, v, f))
    g = torch.nn.functional.logsigmoid(f)
    B, NH, S, K = q.shape
    h, rows = q.new_zeros(B, NH, K, v.shape[-1]), []
    for start in range(0, S, CHUNK):
        qc, kc, vc, gc = (x[:, :, start : start + CHUNK] for x in (q, k, v, g))
        G, n = gc.cumsum(2), qc.shape[2]
        causal = torch.ones(n, n, dtype=torch.bool).tril()[..., None]
        decay = (G[:, :, :, None] - G[:, :, None]).masked_fill(~causal, -torch.inf).exp()
        a = torch.einsum("bhtd,bhsd,bhtsd->bhts", qc, kc, decay)
        rows.append(a @ vc + (qc * G.exp()) @ h)
        last = G[:, :, -1:]
        h = h * last.mT.exp() + (kc * (last - G).exp()).mT @ vc
    return torch.cat(rows, 2).transpose(1, 2).to(out)


@promising(reads="linear", group=2, K=(1, 4), states="state")
def grouped_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A linear attention whose value heads 2 h and 2 h + 1 read key head h."""
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    q, k = (x.repeat_interleave(2, 1) for x in (q, k))
    B, NH, S, K = q.shape
    h = q.new_zeros(B, NH, K, v.shape[-1]) if state is None else state
    rows = []
    for t in range(S):
        h = h * g[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out), h


@promising(
    reads="mlstm", gate="preact", igate=True, group=3, group_order="modulo", scale="K**-0.5", factors="one"
)
def grouped_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """An mLSTM whose value head h reads key head h modulo the number of key heads."""
    out = v.dtype
    q, k, v, i, f = _wide(q.repeat(1, 3, 1, 1), k.repeat(1, 3, 1, 1), v, i, f)
    dtilde = by_windows(torch.nn.functional.logsigmoid(f)) + i[..., None, :]
    m = dtilde.amax(-1, keepdim=True)
    a = q @ k.mT * q.shape[-1] ** -0.5 * (dtilde - m).exp()
    below = torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp())
    h: Tensor = (a / below @ v).to(out)
    return h


@promising(**BY_CHANNEL, group=2, group_order="modulo", factors="one")
def grouped_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Gates by channel and groups: gates of (B, value heads, S, K)."""
    o: Tensor = gla_parallel(q.repeat(1, 2, 1, 1), k.repeat(1, 2, 1, 1), v, g)
    return o


CHANNELS_SOUND = [gla_steps, gla_parallel, gla_chunks, grouped_steps, grouped_mlstm, grouped_gla]


# Delta rules


@promising(reads="delta", gates_by="channel", K=(1, 4, 16), states="state", beta_max=2.0)
def kda_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Kimi delta attention, token by token."""
    out = v.dtype
    q, k, v, g, beta = _wide(q, k, v, g, beta)
    B, NH, S, K = q.shape
    h, rows = q.new_zeros(B, NH, K, v.shape[-1]) if state is None else state, []
    for t in range(S):
        h = h * g[:, :, t, :, None].exp()
        u = beta[:, :, t, None] * (v[:, :, t] - (k[:, :, t, None] @ h)[..., 0, :])
        h = h + k[:, :, t, :, None] * u[:, :, None]
        rows.append((q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out), h


@promising(reads="delta", group=2, K=(4, 16), states="state", l2norm=1e-6, scale="K**-0.5", layout="BSHD")
def grouped_gdn(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A gated delta rule, token by token: value heads 2 h and 2 h + 1 read key head h, normalised inside."""
    out = v.dtype
    q, k, v = (x.transpose(1, 2) for x in _wide(q, k, v))
    g, beta = (x.transpose(1, 2) for x in _wide(g, beta))
    q, k = ((x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)).repeat_interleave(2, 1) for x in (q, k))
    B, NH, S, K = q.shape
    h, rows = q.new_zeros(B, NH, K, v.shape[-1]) if state is None else state, []
    for t in range(S):
        h = h * g[:, :, t, None, None].exp()
        u = beta[:, :, t, None] * (v[:, :, t] - (k[:, :, t, None] @ h)[..., 0, :])
        h = h + k[:, :, t, :, None] * u[:, :, None]
        rows.append(K**-0.5 * (q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).transpose(1, 2).to(out), h


@promising(
    reads="delta", gates_by="channel", group=2, group_order="modulo", K=(4, 16), scale="K**-0.5",
    states="initial_state", error_scope=16, factors=16,
)  # fmt: skip
def grouped_kda(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Kimi delta attention in chunks, whose value head h reads key head h modulo their number."""
    found = EXAMPLE.function(q.repeat(1, 2, 1, 1), k.repeat(1, 2, 1, 1), v, g, beta, initial_state)
    return cast(tuple[Tensor, Tensor], found)


CHANNELS_SOUND += [kda_steps, grouped_gdn, grouped_kda]
