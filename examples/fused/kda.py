"""Kimi delta attention in chunks, plain torch: each channel of k has a gate of its own.

dmat check examples/fused/kda.py:kda
"""

import torch
from torch import Tensor

from dmat.testing import fused

CHUNK = 16


def chunk_kda(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o, (B, NH, S, V), and the last state, (B, NH, K, V) in float32.

    q, k: (B, NH, S, K), |k| at most 1. v: (B, NH, S, V). g, log gates: (B, NH, S, K). beta: (B, NH, S).
    """
    out, (B, NH, S, K) = v.dtype, q.shape
    q, k, v, g, beta = (x.float() for x in (q, k, v, g, beta[..., None]))
    state = q.new_zeros(B, NH, K, v.shape[-1]) if initial_state is None else initial_state.float()
    outputs = []
    for start in range(0, S, CHUNK):
        qc, kc, vc, gc, bc = (x[:, :, start : start + CHUNK] for x in (q, k, v, g, beta))
        n, G = qc.shape[2], gc.cumsum(2)
        causal = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        between = (G[:, :, :, None] - G[:, :, None]).masked_fill(~causal[..., None], -torch.inf).exp()
        A = bc * torch.einsum("bhid,bhjd,bhijd->bhij", kc, kc, between).tril(-1)
        P = torch.einsum("bhid,bhjd,bhijd->bhij", qc, kc, between)
        right = bc * (vc - (kc * G.exp()) @ state)
        U = torch.linalg.solve_triangular(A, right, upper=False, unitriangular=True)
        outputs.append(K**-0.5 * ((qc * G.exp()) @ state + P @ U))
        last = G[:, :, -1:]
        state = last.mT.exp() * state + (kc * (last - G).exp()).mT @ U
    return torch.cat(outputs, 2).to(out), state


kda = fused(
    chunk_kda,
    reads="delta",
    gates_by="channel",
    scale="K**-0.5",
    states="initial_state",
    error_scope=CHUNK,
    factors=CHUNK,
    K=(4, 16),
)
