"""A right kernel: each column is the cumulative sum of its own window, so no digit is ever subtracted.

dmat check examples/masked_cumsum.py:dtilde
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~ of gates (B, NH, S, 1), summed in float32 or better; autograd gives its gradients."""
    S = igate_preact.shape[2]
    wide = torch.promote_types(igate_preact.dtype, torch.float32)
    causal = torch.ones(S, S, dtype=torch.bool, device=igate_preact.device).tril()
    log_fgate = logsigmoid(fgate_preact.to(wide))
    in_window = log_fgate.expand(-1, -1, S, S).masked_fill(~causal.tril(-1), 0)  # [k, s], k > s
    window_sums = in_window.cumsum(dim=2)
    igate = igate_preact.to(wide).transpose(2, 3)
    return (window_sums + igate).masked_fill(~causal, -torch.inf).to(igate_preact.dtype)
