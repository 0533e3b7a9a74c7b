"""Linear attention with decay gates in Triton, forward alone: a program carries the state of one head.

dmat check --interpret examples/fused/triton_linear.py:linear_attention     # on CPU tensors, no GPU
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmat.testing import fused

C = 16


@triton.jit
def _forward(q, k, v, gate, o, S, K: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr):
    """Compute BLOCK columns of o for one head, chunk by chunk."""
    head, block = tl.program_id(0), tl.program_id(1)
    time, channel, column = tl.arange(0, C), tl.arange(0, K), block * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros((K, BLOCK), dtype=tl.float32)
    for start in range(0, S, C):
        t = start + time
        inside = (t < S)[:, None]
        row = head * S + t
        qc = tl.load(q + row[:, None] * K + channel[None, :], mask=inside, other=0.0)
        kc = tl.load(k + row[:, None] * K + channel[None, :], mask=inside, other=0.0)
        vc = tl.load(v + row[:, None] * V + column[None, :], mask=inside, other=0.0)
        decay = tl.cumsum(tl.load(gate + row, mask=t < S, other=0.0).to(tl.float32), axis=0)
        total = tl.sum(tl.load(gate + row, mask=t < S, other=0.0).to(tl.float32), axis=0)
        later = time[:, None] >= time[None, :]
        windows = tl.exp(tl.where(later, decay[:, None] - decay[None, :], float("-inf")))
        a = tl.dot(qc, tl.trans(kc), input_precision="ieee") * windows
        oc = tl.dot(a.to(vc.dtype), vc, input_precision="ieee")
        oc += tl.dot((qc * tl.exp(decay)[:, None]).to(qc.dtype), state.to(qc.dtype), input_precision="ieee")
        tl.store(o + row[:, None] * V + column[None, :], oc.to(vc.dtype), mask=inside)
        tail = (kc * tl.exp(total - decay)[:, None]).to(kc.dtype)
        state = state * tl.exp(total) + tl.dot(tl.trans(tail), vc, input_precision="ieee")


def chunkwise(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor) -> Tensor:
    """Return o, (B, NH, S, V), of q, k (B, NH, S, K), v (B, NH, S, V) and log gates (B, NH, S)."""
    q, k, v, log_gate = (x.contiguous() for x in (q, k, v, log_gate))
    B, NH, S, K = q.shape
    V, o = v.shape[-1], torch.empty_like(v)
    _forward[(B * NH, V // C)](q, k, v, log_gate, o, S, K=K, V=V, BLOCK=C, C=C)
    return o


linear_attention = fused(
    chunkwise,
    reads="linear",
    gate="log",
    gradient="none",
    K=C,
    V=C,
    lengths=(1, 2, 15, 16, 17, 33, 50, 70),
    gate_dtype="float32",
    multiplies_in={"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"},
    error_scope=C,
    factors=C,
)
