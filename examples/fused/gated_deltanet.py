"""Gated DeltaNet, chunk by chunk: a token first erases what the state holds for its key, then writes.

S_t = exp(l_t) (I - beta_t k_t k_t') S_(t-1) + beta_t k_t v_t', o_t = S_t' q_t.

dmat check examples/fused/gated_deltanet.py:gated_deltanet
"""

import torch
from torch import Tensor

from dmat.testing import fused

C = 16


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o, (B, NH, S, V), and the state after it, (B, NH, K, V) in float32.

    q, k: (B, NH, S, K), |k| at most 1. v: (B, NH, S, V). log_gate, at most 0, and beta: (B, NH, S).
    """
    dtype = v.dtype
    q, k, v, log_gate, beta = (x.float() for x in (q, k, v, log_gate, beta))
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for start in range(0, q.shape[2], C):
        qc, kc, vc, lc, bc = (x[:, :, start : start + C] for x in (q, k, v, log_gate, beta))
        decay, b = lc.cumsum(-1)[..., None], bc[..., None]
        causal = torch.ones(kc.shape[2], kc.shape[2], dtype=torch.bool, device=q.device).tril()
        E = (decay - decay.mT).masked_fill(~causal, -torch.inf).exp()
        A = (b * (kc @ kc.mT) * E).tril(-1)  # row i erases what the rows above it have written
        rest = b * (vc - (kc * decay.exp()) @ state)
        written = torch.linalg.solve_triangular(A, rest, upper=False, unitriangular=True)
        outputs.append((qc * decay.exp()) @ state + (qc @ kc.mT * E) @ written)
        to_end = (decay[..., -1:, :] - decay).exp()
        state = decay[..., -1:, :].exp() * state + (kc * to_end).mT @ written
    return torch.cat(outputs, 2).to(dtype), state


gated_deltanet = fused(
    chunkwise,
    reads="delta",
    states="initial_state",
    dtypes=("float32", "bfloat16"),
    error_scope=C,
    factors=C,
)
