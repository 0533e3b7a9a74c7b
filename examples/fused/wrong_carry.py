"""A seeded bug: the carry between chunks is decayed by the gates of the chunk that it enters, too early.

dmat check --first examples/fused/wrong_carry.py:linear_attention
"""

import torch
from torch import Tensor

from dmat.testing import fused

C = 16


def chunkwise(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor) -> Tensor:
    """Return o, (B, NH, S, V), of q, k (B, NH, S, K), v (B, NH, S, V) and log gates (B, NH, S)."""
    state, output = torch.zeros(()), []
    for start in range(0, q.shape[2], C):
        qc, kc, vc, gc = (x[:, :, start : start + C].float() for x in (q, k, v, log_gate))
        decay = gc.cumsum(-1)
        causal = torch.ones(len(gc[0, 0]), len(gc[0, 0]), dtype=torch.bool, device=q.device).tril()
        windows = (decay[..., :, None] - decay[..., None, :]).masked_fill(~causal, -torch.inf).exp()
        inside = (qc @ kc.mT * windows) @ vc
        across = (qc * decay.exp()[..., None]) @ state if start else torch.zeros(())
        output.append(inside + across)
        state = (state + kc.mT @ (vc * (-decay).exp()[..., None])) * decay[..., -1:].exp()[..., None]
        state = state * decay[..., -1:].exp()[..., None]  # once too often
    return torch.cat(output, 2).to(v.dtype)


linear_attention = fused(chunkwise, reads="linear", gate="log", error_scope=C, factors=C)
