"""Mamba-2, chunk by chunk, with all of its arguments.

d = clamp(softplus(dt + dt_bias)), S_t = exp(A d_t) S_(t-1) + d_t B_t x_t',
y_t = (S_t' C_t + D x_t) silu(z_t).

dmat check examples/fused/mamba2.py:mamba2
"""

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from dmat.testing import fused

C = 16
LIMIT = (0.001, 1.0)


def chunkwise(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, Cs: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor,
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return y, (batch, S, heads, V), and the state after it, (batch, heads, K, V) in float32.

    x, z: (batch, S, heads, V). dt: (batch, S, heads). B, Cs: (batch, S, groups, K). A, D, dt_bias: (heads,).
    """
    dtype, heads = x.dtype, x.shape[2]
    B, Cs = (y.float().repeat_interleave(heads // y.shape[2], 2).transpose(1, 2) for y in (B, Cs))
    x, z = (y.float().transpose(1, 2) for y in (x, z))
    dt = softplus(dt.float() + dt_bias).clamp(*LIMIT).transpose(1, 2)  # (batch, heads, S)
    log_gate, dx = A[:, None] * dt, x * dt[..., None]
    state = x.new_zeros(*x.shape[:2], B.shape[-1], x.shape[-1]) if initial_states is None else initial_states
    outputs = []
    for start in range(0, x.shape[2], C):
        Cc, Bc, xc, lc = (y[:, :, start : start + C] for y in (Cs, B, dx, log_gate))
        decay = lc.cumsum(-1)[..., None]
        causal = torch.ones(Bc.shape[2], Bc.shape[2], dtype=torch.bool, device=x.device).tril()
        E = (decay - decay.mT).masked_fill(~causal, -torch.inf).exp()
        outputs.append((Cc * decay.exp()) @ state + (Cc @ Bc.mT * E) @ xc)
        to_end = (decay[..., -1:, :] - decay).exp()
        state = decay[..., -1:, :].exp() * state + (Bc * to_end).mT @ xc
    y = (torch.cat(outputs, 2) + D[:, None, None] * x) * silu(z)
    return y.transpose(1, 2).to(dtype), state


mamba2 = fused(
    lambda q, k, v, dt, A, dt_bias, D, z, **state: chunkwise(v, dt, A, k, q, D, z, dt_bias, **state),
    gate="dt", weight="dt", gate_parameters=("A", "dt_bias"), dt_limit=LIMIT, skip="head", z=True,
    group=2, layout="BSHD", states="initial_states", dtypes=("float32", "bfloat16"),
    error_scope=C, factors=C,
)  # fmt: skip
