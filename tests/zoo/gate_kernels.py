"""Kernels that make their gates themselves: right ones, of each form of gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .channels import _wide, gla_parallel, kda_steps, promising
from .fused_sound import by_windows

STEP: dict[str, Any] = {"reads": "linear", "gate": "dt", "K": (1, 4)}
GDN: dict[str, Any] = {
    "reads": "delta", "gate": "dt", "beta_in": "logit", "K": (4, 16), "states": "state", "scale": "K**-0.5",
}  # fmt: skip


@promising(reads="linear", gate="decay", K=(1, 4), states="state", special_values=("-inf", "nan"))
def decays(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A linear attention whose state is multiplied by alpha itself."""
    out = v.dtype
    q, k, v, alpha = _wide(q, k, v, alpha)
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    rows = []
    for t in range(q.shape[2]):
        h = h * alpha[:, :, t, None, None] + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out), h


@promising(reads="linear", gate="decay", K=(1, 4), factors="one")
def decays_by_logs(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """A linear attention that sums the logarithms of its decays over windows."""
    out = v.dtype
    q, k, v, alpha = _wide(q, k, v, alpha)
    return (by_windows(alpha.log()).exp() * (q @ k.mT) @ v).to(out)


@promising(**STEP, factors="one")
def steps_parallel(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """A linear attention with the gates of Mamba-2, all rows at once."""
    out = v.dtype
    q, k, v, dt = _wide(q, k, v, dt)
    g = -A_log.exp()[:, None] * softplus(dt + dt_bias[:, None])
    return (by_windows(g).exp() * (q @ k.mT) @ v).to(out)


@promising(**{**STEP, "gate_parameters": ("A_log",)}, factors="one", layout="BSHD", group=2)
def steps_without_bias(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor) -> Tensor:
    """The same without a bias, and with value heads that share a key head."""
    q, k, v, dt = (x.transpose(1, 2) for x in (q, k, v, dt))
    q, k = (x.repeat_interleave(2, 1) for x in (q, k))
    found: Tensor = steps_parallel(q, k, v, dt, A_log, torch.zeros_like(A_log))
    return found.transpose(1, 2)


@promising(reads="linear", gate="bounded", lower_bound=-5.0, gates_by="channel", K=(1, 4), factors="one")
def bounded_parallel(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Gates by channel, between -5 and 0, all rows at once."""
    wide, A = dt.to(torch.promote_types(dt.dtype, torch.float32)), A_log.exp()[:, None, None]
    found: Tensor = gla_parallel(q, k, v, -5.0 * torch.sigmoid(A * (wide + dt_bias[:, None])))
    return found


@promising(**GDN, l2norm=1e-6)
def gdn_steps(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A gated delta rule with all of its gates made inside."""
    out = v.dtype
    q, k, v, dt, b = _wide(q, k, v, dt, b)
    q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    g, beta = -A_log.exp()[:, None] * softplus(dt + dt_bias[:, None]), b.sigmoid()
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    rows = []
    for t in range(q.shape[2]):
        h = h * g[:, :, t, None, None].exp()
        u = beta[:, :, t, None] * (v[:, :, t] - (k[:, :, t, None] @ h)[..., 0, :])
        h = h + k[:, :, t, :, None] * u[:, :, None]
        rows.append(q.shape[-1] ** -0.5 * (q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out), h


@promising(
    reads="delta", gate="dt", gates_by="channel", beta_in="logit", beta_max=2.0, K=(4,), states="state"
)
def kda_with_steps(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Kimi delta attention with A_log a head and dt_bias a channel."""
    wide, logit = _wide(dt, b)
    g = -A_log.exp()[:, None, None] * softplus(wide + dt_bias[:, None])
    found: tuple[Tensor, Tensor] = kda_steps(q, k, v, g, 2 * logit.sigmoid(), state)
    return found


GATES_SOUND = [
    decays, decays_by_logs, steps_parallel, steps_without_bias, bounded_parallel, gdn_steps, kda_with_steps,
]  # fmt: skip
