"""Mutants that take a padding mask and use it wrongly. Each is right but for one part."""

from __future__ import annotations

import torch
from torch import Tensor

from .fused_mutants import mutant
from .masked import CHUNKED, FORGET, MLSTM, MaskedChunks, forgetting, masked, masked_steps, mlstm


@mutant("padding", "the mask is multiplied to the output alone", 2, **CHUNKED)
def mask_of_output(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    o, last = MaskedChunks()(q, k, v, g, state)
    return masked(keep, o)[0], last


class _NotTheGates(MaskedChunks):
    def mask(self, keep: Tensor | None, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        return (*masked(keep, k, v), g)


@mutant("padding", "padding on the right decays the state that is handed over", 2, **CHUNKED)
def mask_not_of_gates(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return _NotTheGates()(q, k, v, g, state, keep)


@mutant("padding", "the mask of the first row is that of the whole batch", 2, **CHUNKED)
def mask_of_first_row(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return MaskedChunks()(q, k, v, g, state, None if keep is None else keep[:1].expand_as(keep))


@mutant("padding", "a score of 0 for padded keys, which a softmax counts as 1", 2, **FORGET)
def mask_by_zero_scores(q: Tensor, k: Tensor, v: Tensor, f: Tensor, keep: Tensor | None = None) -> Tensor:
    (real,) = masked(keep, v)
    return forgetting(q, k, real, f, keep, fill=0.0)


@mutant("padding", "padded keys stay in the normaliser", 2, **MLSTM)
def mask_not_of_normaliser(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, keep: Tensor | None = None
) -> Tensor:
    (real,) = masked(keep, v)
    return mlstm(q, k, real, i, f)


@mutant("padding", "the mask is taken for a count of tokens: padding on the left is read", 2, **CHUNKED)
def mask_of_lengths(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    first = None if keep is None else torch.arange(q.shape[2]) < keep.sum(1, keepdim=True)
    return MaskedChunks()(q, k, v, g, state, first)


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, k: Tensor, keep: Tensor) -> Tensor:
        return k * keep[:, None, :, None]

    @staticmethod
    def backward(ctx: object, W: Tensor) -> tuple[Tensor, None]:
        return W.roll(1, 2), None


@mutant("padding", "the gradient of a key goes to the next place", 2, K=(1, 4), states="state", mask="keep")
def mask_shifts_back(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    k = k if keep is None else _Shifted.apply(k, keep)  # type: ignore[no-untyped-call]
    o: tuple[Tensor, Tensor] = masked_steps(q, k, v, g, state, keep)
    return o
