"""dmat's own CUDA kernels as a target of the interpreter: what `dtilde` runs on a GPU, on CPU tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmat.testing import implementation
from dmat.triton_kernels import rectangle_sums, window_sums


class OnTriton(torch.autograd.Function):
    """D~ by window sums, its gradients by rectangle sums, as dmat/operator.py has them."""

    @staticmethod
    def forward(ctx: Any, igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        ctx.save_for_backward(fgate_preact)
        i, f = (x.double().squeeze(-1) for x in (igate_preact, fgate_preact))
        return window_sums(i, torch.nn.functional.logsigmoid(f), -torch.inf, igate_preact.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor]:
        (G,) = cotangents
        (fgate_preact,) = ctx.saved_tensors
        columns, rectangles = rectangle_sums(G, summed=False)
        df = rectangles.unsqueeze(-1) * torch.sigmoid(-fgate_preact.double())
        return columns.unsqueeze(-1).to(G.dtype), df.to(G.dtype)


@implementation(accumulates_in="float64", second_order=False, forward_mode=False)
def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~."""
    out: Tensor = OnTriton.apply(igate_preact, fgate_preact)  # type: ignore[no-untyped-call]
    return out
