"""A wrong kernel: a right forward, and a backward that drops the last forget gates of a ragged tail.

    dmat check --first examples/wrong_gradient.py:dtilde

Restates a published bug: gradients of the gates past the last whole chunk were never written.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 16


class RaggedTail(torch.autograd.Function):
    """D~ by rows, with its own backward in chunks of CHUNK."""

    @staticmethod
    def forward(ctx: Any, igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        """Row by row: what row t - 1 held, decayed once more, and i[t] on the diagonal."""
        ctx.save_for_backward(fgate_preact)
        B, NH, S, _ = igate_preact.shape
        wide = torch.promote_types(igate_preact.dtype, torch.float32)
        log_fgate = torch.nn.functional.logsigmoid(fgate_preact.to(wide))
        sums = log_fgate.new_zeros(B, NH, S, S)
        for t in range(1, S):
            sums[:, :, t, :t] = sums[:, :, t - 1, :t] + log_fgate[:, :, t]
        future = torch.ones(S, S, dtype=torch.bool, device=sums.device).triu(1)
        dtilde = sums + igate_preact.to(wide).transpose(2, 3)
        return dtilde.masked_fill(future, -torch.inf).to(igate_preact.dtype)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """di sums the columns; df[k] the rectangle t >= k > s. Its last S mod CHUNK gates stay zero."""
        (fgate_preact,) = ctx.saved_tensors
        wide = torch.promote_types(fgate_preact.dtype, torch.float32)
        G = cotangents[0].to(wide).tril()
        S = G.shape[-1]
        df = torch.zeros_like(fgate_preact, dtype=wide)
        whole = S // CHUNK * CHUNK if S > CHUNK else S  # should be S: the tail is a chunk too
        for k in range(1, whole):
            df[:, :, k, 0] = G[:, :, k:, :k].sum(dim=(2, 3))
        df = df * torch.sigmoid(-fgate_preact.to(wide))
        di = G.sum(dim=2).unsqueeze(-1)
        return di.to(fgate_preact.dtype), df.to(fgate_preact.dtype)


def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~ of gates (B, NH, S, 1)."""
    result: Tensor = RaggedTail.apply(igate_preact, fgate_preact)  # type: ignore[no-untyped-call]
    return result
