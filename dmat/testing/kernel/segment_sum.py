"""Lifting a segment sum of log decays, a part of D~, to a D~ kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.testing.contract import contract_of, implementation

SegmentSum = Callable[[Tensor], Tensor]


def from_segment_sum(segment_sum: SegmentSum, **contract: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Lift a function of log decays, (..., S) -> (..., S, S), to a D~ kernel.

    segment_sum(l)[t, s] must be the sum of l[k] over s < k <= t, and -inf for s > t, like Mamba-2's segsum.
    It gets l = log sigmoid(f) in promote(dtype, float32), (B, NH, S). Its entries above the diagonal are
    kept, so that the laws see its own mask.
    contract: the fields of dmat.testing.implementation. An omitted field keeps the value that the function
    was decorated with.
    """
    if not callable(segment_sum):
        raise TypeError(f"segment_sum is {segment_sum!r}; expected a callable")

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        wide = torch.promote_types(igate_preact.dtype, torch.float32)
        sums = segment_sum(logsigmoid(fgate_preact.to(wide)).squeeze(-1))
        S = igate_preact.shape[2]
        causal = torch.ones(S, S, dtype=torch.bool, device=sums.device).tril()
        igate = igate_preact.to(wide).transpose(-2, -1)  # (B, NH, 1, S)
        return torch.where(causal, sums + igate, sums).to(igate_preact.dtype)

    dtilde.__name__ = getattr(segment_sum, "__name__", "segment_sum")
    promised = contract_of(segment_sum).stated() | contract
    return implementation(**promised)(dtilde)
