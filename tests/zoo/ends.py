"""Right implementations of D~ whose gradients are summed from the other end of the sequence than the forward.

A contract with a scope wider than the window does not say from which end sums are taken (docs/spec.md
section 3). So a backward, and a forward mode, may take differences of sums from the front or from the back,
in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dmat.testing import implementation

from .sound import (
    LN_2,
    LOG2_E,
    Dtilde,
    causal,
    chunked,
    chunkwise_sums,
    dress,
    from_the_back,
    from_the_front,
    log_decays,
    times,
    widen,
)

Segments = Callable[[Tensor], Tensor]  # a number a gate, (B, NH, S) -> sums over windows, (B, NH, S, S)
Widen = Callable[[Tensor], Tensor]  # converts to the accumulator's format
Rectangles = Callable[[Tensor, Widen], Tensor]  # G, (B, NH, S, S) -> R, (B, NH, S)


# Sums over windows


def chunks_of_4(x: Tensor) -> Tensor:
    """Differences of cumulative sums within chunks of 4, and sums across chunks."""
    return chunkwise_sums(x, 4)


def base_two(x: Tensor) -> Tensor:
    """Differences of cumulative sums of logarithms to base 2."""
    return from_the_front(x * LOG2_E) * LN_2


# Sums over rectangles: rows and columns, the diagonal left out


def below(G: Tensor, wider: Widen) -> Tensor:
    return torch.where(causal(G, -1), wider(G), 0.0)


def columns_before(G: Tensor, wider: Widen) -> Tensor:
    """The sums of the columns before k, minus those of the rows before k."""
    part = below(G, wider)
    return pad((part.sum(-2) - part.sum(-1)).cumsum(-1), (1, 0))[..., :-1]


def rows_after(G: Tensor, wider: Widen) -> Tensor:
    """The sums of the rows from k on, minus those of the columns from k on."""
    part = below(G, wider)
    return (part.sum(-1) - part.sum(-2)).flip(-1).cumsum(-1).flip(-1)


def widened_apart(G: Tensor, wider: Widen) -> Tensor:
    """Columns and rows from two widened copies of G. Their gradients are rounded before they are added."""
    columns, rows = below(G, wider).sum(-2).cumsum(-1), below(G, wider).sum(-1).cumsum(-1)
    return pad(columns - rows, (1, 0))[..., :-1]


def columns_in_chunks(G: Tensor, wider: Widen) -> Tensor:
    """In chunks of 4: the rectangle at the chunk's start, plus the columns since then, minus the rows."""
    part = below(G, wider)
    S = part.shape[-1]
    starts = torch.arange(0, S, 4, device=part.device)
    at_start = (times(part) >= starts[:, None]).unsqueeze(-1) & (times(part) < starts[:, None]).unsqueeze(-2)
    first = torch.where(at_start, part.unsqueeze(-3), 0.0).sum((-2, -1))  # (B, NH, chunks)
    inside = chunked(part.sum(-2) - part.sum(-1), 4).cumsum(-1)
    return (first.unsqueeze(-1) + pad(inside, (1, 0))[..., :-1]).flatten(-2)[..., :S]


def columns_by_einsum(G: Tensor, wider: Widen) -> Tensor:
    """The columns before k minus the rows before k, as products with a mask."""
    part = below(G, wider)
    before = causal(G, -1).to(part.dtype)  # (k, j): j < k
    return torch.einsum("bnts,ks->bnk", part, before) - torch.einsum("bnts,kt->bnk", part, before)


def entry_after_entry(G: Tensor, wider: Widen) -> Tensor:
    """The columns before k minus the rows before k, added one entry at a time like a scalar loop."""
    part = below(G, wider).detach().numpy()
    sums = np.zeros(part.shape[:-1], part.dtype)
    for b, h, k in np.ndindex(sums.shape):
        if k > 0:  # numpy's cumsum adds one entry at a time; torch's sum and cumsum do not
            columns, rows = part[b, h, :, :k].ravel(), part[b, h, :k].ravel()
            sums[b, h, k] = columns.cumsum()[-1] - rows.cumsum()[-1]
    return torch.from_numpy(sums)


class _Ends(torch.autograd.Function):
    """D~, its gradient and its forward mode, each with its own way to sum."""

    @staticmethod
    def forward(igate_preact: Tensor, fgate_preact: Tensor, style: Style) -> Tensor:
        return dress(style.segments(style.log_decays(fgate_preact)), style.wider(igate_preact)).to(
            igate_preact.dtype
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.style = inputs[2]

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None]:
        style, (i, f) = ctx.style, ctx.saved_tensors
        causal_G = torch.where(causal(G), style.wider(G), 0.0)
        df = style.rectangles(G, style.wider).unsqueeze(-1) * torch.sigmoid(-style.wider(f))
        return causal_G.sum(-2).unsqueeze(-1).to(i.dtype), df.to(f.dtype), None

    @staticmethod
    def jvp(ctx: Any, i_dot: Tensor, f_dot: Tensor, _: None) -> Tensor:
        style, (_, f) = ctx.style, ctx.saved_tensors
        moved = (style.wider(f_dot) * torch.sigmoid(-style.wider(f))).squeeze(-1)
        tangent = style.tangents(moved) + style.wider(i_dot).mT
        return torch.where(causal(tangent), tangent, 0.0).to(i_dot.dtype)


@dataclass(frozen=True)
class Style:
    """How D~, its gradient and its forward mode are summed. wide: sum in float64 for every dtype."""

    segments: Segments
    rectangles: Rectangles
    tangents: Segments
    wide: bool = False

    def wider(self, x: Tensor) -> Tensor:
        return x.double() if self.wide else widen(x)

    def log_decays(self, fgate_preact: Tensor) -> Tensor:
        return log_decays(self.wider(fgate_preact))


def right(name: str, style: Style, **contract: Any) -> None:
    """Register this style under its contract."""

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return _Ends.apply(igate_preact, fgate_preact, style)  # type: ignore

    dtilde.__name__ = name
    ENDS.append(implementation(**contract)(dtilde))


ENDS: list[Dtilde] = []
WIDE: dict[str, Any] = {"accumulates_in": "float64"}
PREFIX: dict[str, Any] = {"error_scope": "prefix", "special_values": ()}
SEQUENCE: dict[str, Any] = {"error_scope": "sequence", "special_values": ()}
ONCE: dict[str, Any] = {"second_order": False, "devices": ("cpu",)}
CHUNKS: dict[str, Any] = {"error_scope": 4, "special_values": ()}

right("front_front", Style(from_the_front, columns_before, from_the_front), **PREFIX)
right("front_front_wide", Style(from_the_front, columns_before, from_the_back, wide=True), **PREFIX, **WIDE)
right("front_back", Style(from_the_front, rows_after, from_the_back), **PREFIX)
right("front_back_wide", Style(from_the_front, rows_after, from_the_front, wide=True), **PREFIX, **WIDE)
right("front_apart_wide", Style(from_the_front, widened_apart, from_the_front, wide=True), **PREFIX, **WIDE)
right("front_einsum", Style(from_the_front, columns_by_einsum, from_the_back), **PREFIX)
right("front_one_by_one", Style(from_the_front, entry_after_entry, from_the_back), **PREFIX, **ONCE)
right("base_two_front", Style(base_two, columns_before, base_two), **PREFIX, exact_sums=False)
right("back_front", Style(from_the_back, columns_before, from_the_front), **SEQUENCE)
right("back_back_wide", Style(from_the_back, rows_after, from_the_back, wide=True), **SEQUENCE, **WIDE)
right("chunks_front", Style(chunks_of_4, columns_before, from_the_front), **CHUNKS)
right("chunks_back", Style(chunks_of_4, rows_after, from_the_back), **CHUNKS)
right("chunks_front_inside", Style(chunks_of_4, columns_in_chunks, chunks_of_4), **CHUNKS)
right("chunks_chunks", Style(chunks_of_4, rows_after, chunks_of_4), **CHUNKS)
right("chunks_einsum_wide", Style(chunks_of_4, columns_by_einsum, from_the_back, wide=True), **CHUNKS, **WIDE)
