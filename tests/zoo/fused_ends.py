"""Right fused kernels whose gate gradients are summed from the front or from the back, in any order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from dmat.testing import fused

from .ends import (
    Rectangles,
    chunks_of_4,
    columns_before,
    columns_by_einsum,
    columns_in_chunks,
    entry_after_entry,
    rows_after,
)
from .fused_sound import Kernel, by_differences, by_windows, causal, widen

Decays = Callable[[Tensor], Tensor]  # log gates (B, NH, S) -> D~ without input gate, (B, NH, S, S)
Sums = Callable[[Tensor, Tensor, Tensor], Tensor]  # (X (B, NH, S, S), row sums of X, column sums of X) -> dl


def by_chunks(log_f: Tensor) -> Tensor:
    """D~ of log gates by chunks of 4, with differences of cumulative sums inside a chunk."""
    return chunks_of_4(log_f).masked_fill(~causal(log_f.shape[-1]), -math.inf)


def rows_less_columns(X: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Reverse cumulative sums of q.dq - k.dk."""
    return (rows - columns).flip(-1).cumsum(-1).flip(-1)


def columns_less_rows(X: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cumulative sums of k.dk - q.dq over the sources before k."""
    return pad((columns - rows).cumsum(-1), (1, 0))[..., :-1]


def of_entries(rectangles: Rectangles) -> Sums:
    """Sums of the entries below the diagonal, by a style of ends.py."""
    return lambda X, rows, columns: rectangles(X, lambda x: x)


@dataclass(frozen=True)
class Style:
    """How decays and the gradient of log gates are summed, and the kind of operator (`reads`)."""

    decays: Decays
    sums: Sums
    reads: str = "linear"
    wide: bool = False

    def wider(self, *tensors: Tensor) -> list[Tensor]:
        return [x.double() for x in tensors] if self.wide else widen(*tensors)

    def terms(self, q: Tensor, k: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return E, q.k as it enters the terms, and the divisor of each row's sum, (B, NH, S, 1)."""
        products = q @ k.mT * q.shape[-1] ** -0.5
        D = self.decays(logsigmoid(f)) + i[..., None, :]
        if self.reads == "linear":
            return D.exp(), products, torch.ones_like(i)[..., None]
        if self.reads == "softmax":
            E = (D + products - (D + products).amax(-1, keepdim=True)).exp()
            return E, torch.ones_like(products), E.sum(-1, keepdim=True)
        m = D.amax(-1, keepdim=True)
        E = (D - m).exp()
        return E, products, torch.maximum((E * products).sum(-1, keepdim=True).abs(), (-m).exp())


class _Ends(torch.autograd.Function):
    """The parallel form, with the backward of this style."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, style: Style) -> Tensor:
        ctx.save_for_backward(q, k, v, i, f)
        ctx.style = style
        q_, k_, v_, i_, f_ = style.wider(q, k, v, i, f)
        E, products, N = style.terms(q_, k_, i_, f_)
        return (E * products / N @ v_).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        style = ctx.style
        q, k, v, i, f, W = style.wider(*ctx.saved_tensors, W)
        E, products, N = style.terms(q, k, i, f)
        slope = W @ v.mT
        along = (W * (E * products / N @ v)).sum(-1, keepdim=True)
        n = (E * products).sum(-1, keepdim=True)
        if style.reads == "softmax":
            slope = slope - along
        elif style.reads == "mlstm":
            slope = slope - torch.where(n.abs() >= N, n.sign(), 0.0) * along
        X, scale = E * products / N * slope, q.shape[-1] ** -0.5
        per_product = X * scale if style.reads == "softmax" else E / N * slope * scale
        dq, dk = per_product @ k, per_product.mT @ q
        rows, columns = (
            ((q * dq).sum(-1), (k * dk).sum(-1)) if style.reads != "softmax" else (X.sum(-1), X.sum(-2))
        )
        df = style.sums(X, rows, columns) * torch.sigmoid(-f)
        gradients = (dq, dk, (E * products / N).mT @ W, columns, df)
        saved = ctx.saved_tensors
        return *(x.to(of.dtype) for x, of in zip(gradients, saved, strict=True)), None


def kernel_of(style: Style) -> Kernel:
    """Return the kernel of this style, without a contract."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor) -> Tensor:
        i, f = gates if style.reads != "softmax" else (torch.zeros_like(gates[0]), gates[0])
        return _Ends.apply(q, k, v, i, f, style)  # type: ignore

    return kernel


def right(name: str, style: Style, **contract: Any) -> None:
    """Register this style under its contract."""
    kernel = kernel_of(style)
    kernel.__name__ = name
    normal = style.reads != "softmax"
    FUSED_ENDS.append(
        fused(
            kernel,
            **STATED,
            reads=style.reads,
            igate=normal,
            homogeneous=normal,
            exact_sums=normal,
            **contract,
        )
    )


FUSED_ENDS: list[Kernel] = []
STATED: dict[str, Any] = {"gate": "preact", "scale": "K**-0.5", "factors": "one"}
FRONT: dict[str, Any] = {"grad_scope": "prefix"}
BACK: dict[str, Any] = {"grad_scope": "suffix"}
PREFIX: dict[str, Any] = {"error_scope": "prefix"}
CHUNKS: dict[str, Any] = {"error_scope": 4}
WIDE: dict[str, Any] = {"accumulates_in": "float64"}

right("linear_windows_front", Style(by_windows, columns_less_rows), **FRONT)
right("linear_front", Style(by_differences, columns_less_rows), **PREFIX, **FRONT)
right("linear_back", Style(by_differences, rows_less_columns), **PREFIX, **BACK)
right("linear_front_wide", Style(by_differences, columns_less_rows, wide=True), **PREFIX, **FRONT, **WIDE)
right("linear_back_wide", Style(by_differences, rows_less_columns, wide=True), **PREFIX, **BACK, **WIDE)
right("linear_front_entries", Style(by_differences, of_entries(columns_before)), **PREFIX, **FRONT)
right("linear_back_entries", Style(by_differences, of_entries(rows_after)), **PREFIX, **BACK)
right("linear_front_einsum", Style(by_differences, of_entries(columns_by_einsum)), **PREFIX, **FRONT)
right("linear_one_by_one", Style(by_differences, of_entries(entry_after_entry)), **PREFIX, **FRONT)
right("chunks_back", Style(by_chunks, rows_less_columns), **CHUNKS, **BACK)
right("chunks_front", Style(by_chunks, columns_less_rows), **CHUNKS, **FRONT)
right("chunks_front_inside", Style(by_chunks, of_entries(columns_in_chunks)), **CHUNKS, **FRONT)
right("mlstm_front", Style(by_differences, columns_less_rows, "mlstm"), **PREFIX, **FRONT)
right("mlstm_windows_front", Style(by_windows, of_entries(columns_before), "mlstm"), **FRONT)
right(
    "mlstm_back_wide", Style(by_differences, rows_less_columns, "mlstm", wide=True), **PREFIX, **BACK, **WIDE
)
right("softmax_front", Style(by_differences, columns_less_rows, "softmax"), **PREFIX, **FRONT)
right("softmax_back", Style(by_differences, rows_less_columns, "softmax"), **PREFIX, **BACK)
