"""The notebook's formula: a difference of cumulative sums, which keeps less than it looks.

dmat check examples/cumsum_difference.py:dtilde             # accused: f[0] takes digits from all rows
dmat check examples/cumsum_difference.py:dtilde_declared    # passes: it promises no more than it keeps
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import dmat.testing


def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~ of gates (B, NH, S, 1). One large early gate, and every later row forgets its digits."""
    S = igate_preact.shape[2]
    wide = torch.promote_types(igate_preact.dtype, torch.float32)
    causal = torch.ones(S, S, dtype=torch.bool, device=igate_preact.device).tril()
    sums = logsigmoid(fgate_preact.to(wide)).cumsum(dim=2)  # (B, NH, S, 1)
    difference = sums - sums.transpose(2, 3)
    igate = igate_preact.to(wide).transpose(2, 3)
    return (difference + igate).masked_fill(~causal, -torch.inf).to(igate_preact.dtype)


@dmat.testing.implementation(error_scope="prefix")
def dtilde_declared(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The same, saying so: errors grow with the sums from the first gate on."""
    return dtilde(igate_preact, fgate_preact)
