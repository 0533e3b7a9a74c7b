"""D~ as the formula reads, in plain torch with autograd's gradient: the wrong way, and a right one.

By differences of cumulative sums, which everybody writes first, and by masked cumulative sums, which
cost a gate S times. dmat/segments.py is right and fast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dmat.operator import log_sigmoid


def vlstm_fw_Dtildemat(
    igate_preact: Float[Tensor, "B NH S 1"], fgate_preact: Float[Tensor, "B NH S 1"]
) -> Float[Tensor, "B NH S S"]:
    """Log-gate decay matrix by differences of cumulative sums; its gradient is autograd's.

    What the difference costs: its error is relative to the sums from f[0] on, not to the window.
    One early gate of -1e4 takes four digits from every later entry, and one of -inf leaves NaN.
    Accuracy class (prefix, float32), for float64 gates (prefix, float64): docs/spec.md section 3.
    The mask is added to the input gate, so a cotangent above the diagonal reaches that gate
    ("summed"), and an input gate of +inf or NaN is seen there.

    Args:
        igate_preact: input gates before their exponential, (B, NH, S, 1), of float64, float32,
            bfloat16 or float16.
        fgate_preact: forget gates before their sigmoid, same shape, dtype and device.

    Returns:
        A new tensor of shape (B, NH, S, S), entries in nats, dtype and device of the gates.
    """
    wide = torch.promote_types(igate_preact.dtype, torch.float32)
    prefix = log_sigmoid(fgate_preact.to(wide)).cumsum(dim=-2)  # (B, NH, S, 1)
    log_decay = prefix - prefix.mT  # (B, NH, S, S)
    past = torch.ones_like(log_decay, dtype=torch.bool).tril()  # s <= t
    masked = torch.where(past, log_decay, -torch.inf)
    return (masked + igate_preact.to(wide).mT).to(igate_preact.dtype)


def masked_cumulative_sum(
    igate_preact: Float[Tensor, "B NH S 1"], fgate_preact: Float[Tensor, "B NH S 1"]
) -> Float[Tensor, "B NH S S"]:
    """Log-gate decay matrix by a cumulative sum down each column, zeros up to its own gate.

    Nothing is subtracted, so errors are those of the window alone. Accuracy class (window, float32), for
    float64 gates (window, float64): docs/spec.md section 3. Arguments and result as above.
    """
    wide = torch.promote_types(igate_preact.dtype, torch.float32)
    log_f = log_sigmoid(fgate_preact.to(wide))  # (B, NH, S, 1)
    S = log_f.shape[-2]
    past = torch.ones(S, S, dtype=torch.bool, device=log_f.device).tril()  # s <= t
    window_sums = torch.where(past.tril(-1), log_f, 0.0).cumsum(dim=-2)  # (B, NH, S, S)
    return torch.where(past, window_sums + igate_preact.to(wide).mT, -torch.inf).to(igate_preact.dtype)
