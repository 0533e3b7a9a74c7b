"""Gated DeltaNet in Triton, chunk by chunk, forward alone: a program carries the state of one head.

dmat check --interpret examples/fused/triton_gated_deltanet.py:gated_deltanet     # on CPU tensors, no GPU
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmat.testing import fused

C = 16


@triton.jit
def _forward(q, k, v, gate, beta, S_0, o, S_T, S, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):
    """Compute C columns of o and of the last state for one head."""
    head, column = tl.program_id(0), tl.program_id(1) * C + tl.arange(0, C)
    time, channel = tl.arange(0, C), tl.arange(0, K)
    of_state = (head * K + channel[:, None]) * V + column[None, :]
    state = tl.load(S_0 + of_state)
    for start in range(0, S, C):
        t = start + time
        inside, row = (t < S)[:, None], head * S + t
        qc = tl.load(q + row[:, None] * K + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        kc = tl.load(k + row[:, None] * K + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        vc = tl.load(v + row[:, None] * V + column[None, :], mask=inside, other=0.0).to(tl.float32)
        gates = tl.load(gate + row, mask=t < S, other=0.0).to(tl.float32)
        b = tl.load(beta + row, mask=t < S, other=0.0).to(tl.float32)[:, None]
        decay, total = tl.cumsum(gates, axis=0), tl.sum(gates, axis=0)
        differences = decay[:, None] - decay[None, :]
        E = tl.exp(tl.where(time[:, None] >= time[None, :], differences, float("-inf")))
        A = b * tl.dot(kc, tl.trans(kc), input_precision="ieee") * E
        A = tl.where(time[:, None] > time[None, :], A, 0.0)
        from_start = tl.exp(decay)[:, None]
        written = b * (vc - tl.dot(kc * from_start, state, input_precision="ieee"))
        for i in range(1, C):  # row i erases what the rows above it have written
            of_row = tl.sum(tl.where(time[:, None] == i, A, 0.0), axis=0)
            erased = tl.sum(of_row[:, None] * written, axis=0)
            written -= tl.where(time[:, None] == i, erased[None, :], 0.0)
        P = tl.dot(qc, tl.trans(kc), input_precision="ieee") * E
        oc = tl.dot(qc * from_start, state, input_precision="ieee")
        oc += tl.dot(P, written, input_precision="ieee")
        tl.store(o + row[:, None] * V + column[None, :], oc.to(o.dtype.element_ty), mask=inside)
        tail = kc * tl.exp(total - decay)[:, None]
        state = state * tl.exp(total) + tl.dot(tl.trans(tail), written, input_precision="ieee")
    tl.store(S_T + of_state, state)


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o, (B, NH, S, V), and the last state, (B, NH, K, V) in float32.

    q, k: (B, NH, S, K), |k| at most 1. v: (B, NH, S, V). log_gate, at most 0, and beta: (B, NH, S).
    """
    (B, NH, S, K), V = q.shape, v.shape[-1]
    q, k, v, log_gate, beta = (x.contiguous() for x in (q, k, v, log_gate, beta))
    first = torch.zeros(B, NH, K, V, device=q.device) if initial_state is None else initial_state
    o, last = torch.empty_like(v), torch.empty_like(first, memory_format=torch.contiguous_format)
    _forward[(B * NH, V // C)](q, k, v, log_gate, beta, first.contiguous(), o, last, S, K=K, V=V, C=C)
    return o, last


gated_deltanet = fused(
    chunkwise, reads="delta", states="initial_state", gradient="none", dtypes=("float32", "bfloat16"),
    K=C, V=C, lengths=(1, 2, 15, 16, 17, 33, 50), error_scope=C, factors=C,
)  # fmt: skip
