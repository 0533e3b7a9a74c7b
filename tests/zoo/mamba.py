"""Right kernels of Mamba-2 with all of its arguments, in unlike styles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu, softplus

from .channels import _wide, promising
from .fused_sound import by_windows

MAMBA: dict[str, Any] = {
    "reads": "linear", "gate": "dt", "weight": "dt", "gate_parameters": ("A", "dt_bias"), "K": (1, 4),
    "dt_limit": (0.05, 2.0), "skip": "head", "z": True,
}  # fmt: skip
CHUNK = 4


@promising(**MAMBA, factors="one")
def mamba_parallel(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A: Tensor, dt_bias: Tensor, D: Tensor, z: Tensor
) -> Tensor:
    """All rows at once."""
    out = v.dtype
    q, k, v, dt, z = _wide(q, k, v, dt, z)
    d = softplus(dt + dt_bias[:, None]).clamp(0.05, 2.0)
    a = by_windows(A[:, None] * d).exp() * (q @ k.mT) * d[..., None, :]
    return ((a @ v + D[:, None, None] * v) * silu(z)).to(out)


@promising(
    **{**MAMBA, "skip": "channel", "gate_parameters": ("A_log", "dt_bias"), "dt_limit": (0.0, 3.0)},
    layout="BSHD", group=2, states="state", packed="ends", packed_states=False,
)  # fmt: skip
def mamba_steps(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor, D: Tensor, z: Tensor,
    state: Tensor | None = None, ends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A recurrence, step by step; the state is kept V x K, and the weight goes with the value."""
    out = v.dtype
    q, k, v, dt, z = (x.transpose(1, 2) for x in _wide(q, k, v, dt, z))
    q, k = (x.repeat_interleave(2, 1) for x in (q, k))
    y = dt + dt_bias[:, None]
    d = torch.minimum(torch.where(y > 20, y, y.clamp(max=20).exp().log1p()), torch.tensor(3.0, dtype=y.dtype))
    decay = (-d * A_log.exp()[:, None]).exp()
    h = q.new_zeros(*v.shape[:2], v.shape[-1], q.shape[-1]) if state is None else state
    anew = set() if ends is None else set(ends.tolist())
    rows = []
    for t in range(q.shape[2]):
        h = h * 0 if t in anew else h
        h = h * decay[:, :, t, None, None] + (d[:, :, t, None] * v[:, :, t])[..., None] * k[:, :, t, None]
        rows.append((h @ q[:, :, t, :, None])[..., 0] + D * v[:, :, t])
    return (torch.stack(rows, 2) * z * z.sigmoid()).to(out).transpose(1, 2), h


class _Clamped(torch.autograd.Function):
    """Steps between 1/8 and 1, with the derivative 0 at both ends."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward((y > 0.125) & (y < 1))
        return y.clamp(0.125, 1)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, W, 0.0)


@promising(
    **{**MAMBA, "gate_parameters": ("A",), "dt_softplus": False, "dt_limit": (0.125, 1.0), "z": False},
    states="initial", error_scope=CHUNK, factors=CHUNK, grad_scope="suffix",
)  # fmt: skip
def mamba_chunked(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A: Tensor, D: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Chunks of 4; steps without softplus or bias, clamped; the weight goes with the key."""
    out, S = v.dtype, q.shape[2]
    q, k, v, dt = _wide(q, k, v, dt)
    d: Tensor = _Clamped.apply(dt)  # type: ignore[no-untyped-call]
    g, kd = A[:, None] * d, k * d[..., None]
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if initial is None else initial
    rows = []
    for n in range(0, S, CHUNK):
        own = slice(n, min(n + CHUNK, S))
        c, Q, Kd, U = g[:, :, own].cumsum(-1), q[:, :, own], kd[:, :, own], v[:, :, own]
        E = torch.where(
            torch.ones(c.shape[-1], c.shape[-1]).tril() > 0, c[..., None] - c[..., None, :], -torch.inf
        )
        rows.append(c.exp()[..., None] * (Q @ h) + (E.exp() * (Q @ Kd.mT)) @ U)
        last = c[..., -1:]
        h = last.exp()[..., None] * h + (Kd * (last - c).exp()[..., None]).mT @ U
    return (torch.cat(rows, 2) + v * D[None, :, None, None]).to(out), h


@promising(
    **{**MAMBA, "weight": None, "dt_limit": None, "gate_parameters": ("A_log",)},
    factors="one", multiplies_in="input", dtypes=("float32", "bfloat16"),
)  # fmt: skip
def gated_in_halves(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, D: Tensor, z: Tensor
) -> Tensor:
    """No weight; the gate z, and what it multiplies, are rounded to the format of v."""
    out = v.dtype
    wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v, dt)]
    g = -A_log.exp()[:, None] * softplus(wide[3])
    a = (by_windows(g).exp() * (wide[0] @ wide[1].mT)).to(out)
    y = a.to(wide[2].dtype) @ wide[2] + D[:, None, None] * wide[2]
    return y.to(out) * silu(z)


@promising(
    reads="linear", gate="log", K=(1, 4), skip="channel", z=True, factors="one", special_values=("-inf",)
)
def gated_linear(q: Tensor, k: Tensor, v: Tensor, g: Tensor, D: Tensor, z: Tensor) -> Tensor:
    """A linear attention with a skip and a gate."""
    out = v.dtype
    q, k, v, g, z = _wide(q, k, v, g, z)
    return torch.einsum(
        "bhtc,bhtc->bhtc", by_windows(g).exp() * (q @ k.mT) @ v + torch.einsum("hc,bhtc->bhtc", D, v), silu(z)
    ).to(out)


MAMBA_SOUND = [mamba_parallel, mamba_steps, mamba_chunked, gated_in_halves, gated_linear]


NORMALISED: dict[str, Any] = {"reads": "normalised", "K": (1, 4), "eps": 1e-6}


@promising(**NORMALISED, factors="one")
def normalised_parallel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The sum of a v over the sum of a and eps, all rows at once."""
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    a = by_windows(g).exp() * (q @ k.mT)
    return ((a @ v) / (a.sum(-1, keepdim=True) + 1e-6)).to(out)


@promising(**{**NORMALISED, "gate": "preact"}, states="state", igate=True, i_range=(-5.0, 5.0))
def normalised_steps(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as a recurrence: the denominator is a further column of v, in the state too."""
    out = v.dtype
    q, k, v, i, f = _wide(q, k, v, i, f)
    u = torch.cat([v, torch.ones_like(v[..., :1])], -1) * i.exp()[..., None]
    h = q.new_zeros(*q.shape[:2], q.shape[-1], u.shape[-1]) if state is None else state
    decay = logsigmoid(f).exp()
    rows = []
    for t in range(q.shape[2]):
        h = h * decay[:, :, t, None, None] + k[:, :, t, :, None] * u[:, :, t, None]
        both = (q[:, :, t, None] @ h)[..., 0, :]
        rows.append(both[..., :-1] / (both[..., -1:] + 1e-6))
    return torch.stack(rows, 2).to(out), h


@promising(
    **{**NORMALISED, "eps": 0.0}, states="state", packed="ends", packed_states=False,
    error_scope=CHUNK, factors=CHUNK, grad_scope="suffix",
)  # fmt: skip
def normalised_chunked(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: tuple[Tensor, Tensor] | None = None,
    ends: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Chunks of 4, each sequence in chunks of its own; the state is a pair, S and the sum of keys."""
    out, S, V = v.dtype, q.shape[2], v.shape[-1]
    q, k, v, g = _wide(q, k, v, g)
    h, n = state or (q.new_zeros(*q.shape[:2], q.shape[-1], V), q.new_zeros(*q.shape[:2], q.shape[-1], 1))
    starts = [0] if ends is None else [0, *ends.tolist()[:-1]]
    rows = []
    for first, end in zip(starts, [S] if ends is None else ends.tolist(), strict=True):
        h, n = (h, n) if ends is None else (h * 0, n * 0)
        for a in range(first, end, CHUNK):
            own = slice(a, min(a + CHUNK, end))
            c, Q, Key, U = g[:, :, own].cumsum(-1), q[:, :, own], k[:, :, own], v[:, :, own]
            differences = (c[..., None] - c[..., None, :]).masked_fill(
                ~torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool).tril(), -torch.inf
            )
            weights, before = differences.exp() * (Q @ Key.mT), c.exp()[..., None] * Q
            rows.append((weights @ U + before @ h) / (weights.sum(-1, keepdim=True) + before @ n))
            decayed = Key * (c[..., -1:] - c).exp()[..., None]
            last = c[..., -1].exp()[..., None, None]
            h, n = last * h + decayed.mT @ U, last * n + decayed.sum(-2)[..., None]
    return torch.cat(rows, 2).to(out), (h, n)


MAMBA_SOUND += [normalised_parallel, normalised_steps, normalised_chunked]
