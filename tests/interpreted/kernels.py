"""D~ in Triton, a program a row of D~: one that is right, and two bugs that an interpreter can see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmat.testing import implementation

promised = implementation(
    max_seq=8,  # for tests are to be quick
    dtypes=("float32", "bfloat16"),
    devices=("cuda",),
    special_values=(),
    zero_length=False,
    differentiable=False,
    gates="absolute",  # log(1 + exp(-f)): Triton has no log1p of its own
)


@triton.jit
def log_sigmoid(x):
    """Without overflow on either side."""
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def write_row(i, f, out, S, BLOCK: tl.constexpr, RAGGED: tl.constexpr, WIDE: tl.constexpr):
    """Row t: the sums of log sigmoid(f) over s < k <= t, from behind, and i[s]."""
    t = tl.program_id(0) % S
    head = (tl.program_id(0) // S).to(tl.int64)
    s = tl.arange(0, BLOCK)
    inside = s < S if RAGGED else s < BLOCK
    later = (s + 1 <= t) & (s + 1 < S)
    decay = log_sigmoid(tl.load(f + head * S + s + 1, mask=later, other=0.0).to(tl.float32))
    decay = tl.where(later, decay, 0.0)
    if not WIDE:
        decay = decay.to(out.dtype.element_ty).to(tl.float32)
    sums = tl.cumsum(decay, axis=0, reverse=True)
    row = sums + tl.load(i + head * S + s, mask=inside, other=0.0).to(tl.float32)
    row = tl.where(s <= t, row, float("-inf"))
    tl.store(out + (head * S + t) * S + s, row.to(out.dtype.element_ty), mask=s < S)


def _written(ragged: bool, wide: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        B, NH, S, _ = igate_preact.shape
        out: Tensor = igate_preact.new_empty(B, NH, S, S)
        i, f = igate_preact.contiguous(), fgate_preact.contiguous()
        with torch.cuda.device(out.device):
            grid: Any = (B * NH * S,)
            write_row[grid](i, f, out, S, BLOCK=triton.next_power_of_2(S), RAGGED=ragged, WIDE=wide)
        return out

    return dtilde


right = promised(_written(ragged=True, wide=True))
reads_past_the_end = promised(_written(ragged=False, wide=True))  # at a length that is no power of two
sums_rounded_terms = promised(_written(ragged=True, wide=False))  # rounds each term to bfloat16
