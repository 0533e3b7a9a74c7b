"""The mLSTM, all rows at once, stabilised: a row's maximum of D~ is taken out and put back.

dmat check examples/fused/mlstm.py:mlstm
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.testing import fused


def parallel(q: Tensor, k: Tensor, v: Tensor, igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Return h, (B, NH, S, V), of q, k (B, NH, S, K), v (B, NH, S, V) and gates (B, NH, S)."""
    q, k, values, igate, fgate = (x.float() for x in (q, k, v, igate_preact, fgate_preact))
    S, K = q.shape[-2:]
    causal = torch.ones(S, S, dtype=torch.bool, device=q.device).tril()
    log = logsigmoid(fgate)[..., :, None].expand(*fgate.shape, S)
    windows = log.masked_fill(~causal.tril(-1), 0.0).cumsum(-2)  # no difference of sums: nothing is forgotten
    dtilde = (windows + igate[..., None, :]).masked_fill(~causal, -torch.inf)
    m = dtilde.max(-1, keepdim=True).values
    a = q @ k.mT * K**-0.5 * (dtilde - m).exp()
    n = torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp())
    h: Tensor = (a / n) @ values
    return h.to(v.dtype)


mlstm = fused(
    parallel, reads="mlstm", gate="preact", igate=True, scale="K**-0.5", factors="one", i_range=(-8, 8)
)
