"""Linear attention with decay gates, chunk by chunk: o[t] = sum of exp(l[s+1] + .. + l[t]) (q_t . k_s) v_s.

dmat check examples/fused/chunkwise.py:linear_attention
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from dmat.testing import fused

C = 16


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o, (B, NH, S, V), and the state after it, (B, NH, K, V) in float32.

    q, k: (B, NH, S, K). v: (B, NH, S, V). log_gate: (B, NH, S), at most 0.
    """
    B, NH, S, K = q.shape
    tail = -S % C
    qs, ks, vs = (pad(x.float(), (0, 0, 0, tail)).reshape(B, NH, -1, C, x.shape[-1]) for x in (q, k, v))
    gates = pad(log_gate.float(), (0, tail)).reshape(B, NH, -1, C)  # (B, NH, chunks, C)
    decay = gates.cumsum(-1)
    causal = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    windows = (decay[..., :, None] - decay[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    inside = (qs @ ks.mT * windows) @ vs
    kept = (ks * (decay[..., -1:] - decay).exp()[..., None]).mT @ vs  # what a chunk adds to the state
    state = (
        q.new_zeros(B, NH, K, v.shape[-1], dtype=torch.float32) if initial_state is None else initial_state
    )
    before = []
    for chunk in range(gates.shape[2]):
        before.append(state)
        state = state * decay[:, :, chunk, -1].exp()[..., None, None] + kept[:, :, chunk]
    across = (qs * decay.exp()[..., None]) @ torch.stack(before, 2)
    return (inside + across).flatten(2, 3)[:, :, :S].to(v.dtype), state


linear_attention = fused(
    chunkwise, reads="linear", gate="log", states="initial_state", error_scope=C, factors=C
)
