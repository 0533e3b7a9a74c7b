"""The two linear maps of D~ in plain torch, by halves: any device, at the speed of the memory.

Cut the sequence in two. Whatever is written in the first half and read in the second passes the middle:
its window is what the first half still has after s, and what the second has up to t. So a square of h x h
entries takes one addition each, from two vectors; the two halves are cut in turn, down to squares of BASE
x BASE on the diagonal. Only terms of a window are ever added up, and nothing is subtracted: a difference
of cumulative sums loses every digit once an early term is large, and is inf - inf after a reset. A NaN or
infinity stays in the windows that hold it, and the error is that of summing just those terms, in float64
for every dtype (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; docs/spec.md 2, 3).

The adjoint is the same picture turned over: the sums of the rows and columns of each square.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from dmat.pages import on_large_pages

BASE = 16  # below it the squares are so small that the calls cost more than the sums
ALONE = 64  # a sequence no longer than this is one square: one call for each step
PIECE = 2**18  # elements computed in float64 at a time, 2 MiB: fewer calls, and a cache still holds them


def base_of(S: int) -> int:
    """Side of the squares on the diagonal that are summed directly."""
    return BASE if S > ALONE else max(S, 1)


def padded(S: int) -> int:
    """The base times the power of two that holds S."""
    base = base_of(S)
    return base << (-(-S // base) - 1).bit_length()


def halves(x: Tensor, h: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Views of x (N, S, S) in which t and s lie in the two halves of one pair: 2 h long, the last shorter.

    Yields which pairs, the squares below the diagonal (s in the first half, t in the second) and those
    above it, (N, pairs, t, s).
    """
    S, n = x.shape[-1], x.shape[-1] // (2 * h)
    yield slice(0, n), _diagonal(x, 2 * h, n, (h, 0), (h, h)), _diagonal(x, 2 * h, n, (0, h), (h, h))
    left = S - 2 * h * n - h  # of the second half of the last pair
    if left > 0:
        start, middle = 2 * h * n, 2 * h * n + h
        below, above = (middle, start), (start, middle)
        last = slice(n, n + 1)
        yield last, _diagonal(x, 0, 1, below, (left, h)), _diagonal(x, 0, 1, above, (h, left))


def squares(x: Tensor, side: int) -> Iterator[tuple[slice, Tensor]]:
    """Views of x (N, S, S): which squares on the diagonal, and these, (N, n, t, s); the last is smaller."""
    S, n = x.shape[-1], x.shape[-1] // side
    yield slice(0, n), _diagonal(x, side, n, (0, 0), (side, side))
    left = S - side * n
    if left:
        yield slice(n, n + 1), _diagonal(x, 0, 1, (side * n, side * n), (left, left))


def _diagonal(x: Tensor, step: int, n: int, first: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """View n blocks of x (N, S, S) of this shape, each `step` further along both; the first at `first`."""
    of_N, of_t, of_s = x.stride()
    offset = x.storage_offset() + first[0] * of_t + first[1] * of_s
    return x.as_strided((x.shape[0], n, *shape), (of_N, step * (of_t + of_s), of_t, of_s), offset)


def cut(block: Tensor, dims: int = 3) -> tuple[int, int] | None:
    """Into what size, along which of its first dims, to split (N, n, t, s); None if it is one piece."""
    dim = next((d for d in range(dims) if block.shape[d] > 1), None)
    if dim is None or block.numel() <= PIECE:
        return None
    return max(1, PIECE // prod(block.shape[dim + 1 :])), dim


class Workspace:
    """Memory for one piece in float64, and views of it: got once, for the system clears what it hands out."""

    def __init__(self, x: Tensor) -> None:
        """Allocate what the largest piece of x takes."""
        self.memory = x.new_empty(min(PIECE, x.numel()), dtype=torch.float64)
        self.views: dict[torch.Size, Tensor] = {}

    def like(self, part: Tensor) -> Tensor:
        """The start of it in the shape of a piece; new memory where a single row or square is larger."""
        view = self.views.get(part.shape)
        if view is None:
            fits = part.numel() <= len(self.memory)
            memory = self.memory if fits else self.memory.new_empty(part.numel())
            view = self.views[part.shape] = memory[: part.numel()].view(part.shape)
        return view


def sum_from(v: Tensor) -> Tensor:
    """(..., n) -> (..., n): [k] = v[k] + .. + v[n - 1]."""
    return v.flip(-1).cumsum(-1).flip(-1)


def after(v: Tensor) -> Tensor:
    """(..., n) -> (..., n): [s] = v[s + 1] + .. + v[n - 1]."""
    return pad(sum_from(v)[..., 1:], (0, 1))


# Forward.


def window_sums(
    column: Tensor, v: Tensor, above: float | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """column[s] + the sum of v over window(t, s), for float64 (..., S) -> `dtype` (..., S, S).

    Above the diagonal stands the constant `above`, or column[s] for None. Every element of the result
    is written once, into `out` where that is given (any strides, none of them shared by two elements);
    what is computed beside it takes PIECE + O(S BASE) elements.
    """
    S = v.shape[-1]
    out = on_large_pages(v.new_empty(*v.shape, S, dtype=dtype)) if out is None else out
    for square, column_, v_ in flattened(out, column, v):
        _write(square, column_, v_, above)
    return out


def flattened(square: Tensor, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """View (..., S, S) as (N, S, S), and vectors (..., S) as (N, S); in parts where the strides demand it."""
    S = square.shape[-1]
    if square.numel() == 0:
        return
    try:
        whole = square.view(-1, S, S)
    except RuntimeError:  # no single view: one part for each index of the first dimension
        for parts in zip(square, *vectors, strict=True):
            yield from flattened(*parts)
    else:
        yield whole, *(x.reshape(-1, S) for x in vectors)


def _write(out: Tensor, column: Tensor, v: Tensor, above: float | None) -> None:
    """Write `window_sums` of column and v, float64 (N, S), into out (N, S, S)."""
    S, base = v.shape[-1], base_of(v.shape[-1])
    missing = padded(S) - S
    column, v = ((pad(x, (0, missing)) if missing else x).view(len(x), -1, base) for x in (column, v))
    work = Workspace(out)
    for which, block in squares(out, base):
        side = block.shape[-1]
        _write_squares(block, column[:, which, :side], v[:, which, :side], above, work)
    if S <= base:
        return
    up_to_t, after_s = v.cumsum(-1), after(v)
    while (h := up_to_t.shape[-1]) < S:
        left, right = (after_s + column)[:, ::2], up_to_t[:, 1::2]
        for which, below, future in halves(out, h):
            of_t = right[:, which, : below.shape[-2]]
            _write_sums(below, left[:, which].unsqueeze(-2), of_t.unsqueeze(-1), work)
            if above is None:
                future.copy_(column[:, 1::2][:, which, None, : future.shape[-1]])
            else:
                future.fill_(above)
        up_to_t, after_s, column = _joined(up_to_t, after_s, column)


def _write_sums(out: Tensor, left: Tensor, right: Tensor, work: Workspace) -> None:
    """Write left (N, n, 1, s) + right (N, n, t, 1) into out (N, n, t, s): one addition in float64 each."""
    if (split := cut(out)) is None:
        out.copy_(torch.add(left, right, out=work.like(out)))
        return
    size, dim = split
    lefts = torch.split(left, size, dim) if dim < 2 else repeat(left)
    outs, rights = torch.split(out, size, dim), torch.split(right, size, dim)
    for out_, left_, right_ in zip(outs, lefts, rights, strict=False):
        _write_sums(out_, left_, right_, work)


def _joined(up_to_t: Tensor, after_s: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same three of halves (N, 2 n, h) for pairs of them, (N, n, 2 h)."""
    first, second = up_to_t[:, ::2], up_to_t[:, 1::2]
    up_to = torch.cat([first, first[..., -1:] + second], -1)
    after_ = torch.cat([after_s[:, ::2] + second[..., -1:], after_s[:, 1::2]], -1)
    return up_to, after_, column.reshape(up_to.shape)


def _write_squares(out: Tensor, column: Tensor, v: Tensor, above: float | None, work: Workspace) -> None:
    """Write the squares on the diagonal, (N, n, side, side), from column and v, (N, n, side)."""
    if (split := cut(out, dims=2)) is not None:
        parts = (torch.split(x, *split) for x in (out, column, v))
        for out_, column_, v_ in zip(*parts, strict=True):
            _write_squares(out_, column_, v_, above, work)
        return
    side = out.shape[-1]
    sums = work.like(out).copy_(v.unsqueeze(-1)).tril_(-1)  # [t, s] = v[t]
    if above is None:
        sums[..., 0, :] = column
    else:
        sums.diagonal(dim1=-2, dim2=-1).copy_(column)
    sums.cumsum_(-2)
    mask = sums.new_full((side, side), above or 0.0).triu_(1)
    torch.add(sums, mask, out=sums)  # above the diagonal the sums are 0, and 0 + above is it
    out.copy_(sums)


# Backward.


def rectangle_sums(G: Tensor, *, summed: bool) -> tuple[Tensor, Tensor]:
    """The sums of each column and of each rectangle, (..., S, S) -> twice float64 (..., S).

    A column is summed over t >= s, or over all t if `summed`; a rectangle over t >= k > s. What lies
    above the diagonal is read only if `summed`, each other element once (on the diagonal, in squares
    of BASE, several times).
    """
    columns, rectangles = (G.new_empty(G.shape[:-1], dtype=torch.float64) for _ in range(2))
    for square, columns_, rectangles_ in flattened(G, columns, rectangles):
        below, across = _read(square)
        columns_.copy_(_sum_rows(square) if summed else below)
        rectangles_.copy_(across)
    return columns, rectangles


def _read(G: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of columns below the diagonal and of rectangles, (N, S, S) -> twice float64 (N, S)."""
    N, S = G.shape[:-1]
    base, length, work = base_of(S), padded(S), Workspace(G)
    columns, rectangles = G.new_zeros(2, N, length // base, base, dtype=torch.float64)
    for which, block in squares(G, base):
        side = block.shape[-1]
        _read_squares(block, columns[:, which, :side], rectangles[:, which, :side], work)
    while (h := columns.shape[-1]) < S:
        of_rows, of_columns = G.new_zeros(2, N, length // (2 * h), h, dtype=torch.float64)
        for which, below, _ in halves(G, h):
            _read_sums(below, of_rows[:, which, : below.shape[-2]], of_columns[:, which], work)
        columns[:, ::2] += of_columns
        # k in the first half: s < k, t in the second. k in the second: t >= k, s in the first.
        rectangles[:, ::2, 1:] += of_columns.cumsum(-1)[..., :-1]
        rectangles[:, 1::2] += sum_from(of_rows)
        columns, rectangles = (x.reshape(N, -1, 2 * h) for x in (columns, rectangles))
    return columns.view(N, -1)[:, :S], rectangles.view(N, -1)[:, :S]


def _read_sums(block: Tensor, of_rows: Tensor, of_columns: Tensor, work: Workspace) -> None:
    """Write the sums of the rows of a block (N, n, t, s) into of_rows, and add those of its columns."""
    if (split := cut(block)) is None:
        wide = block if block.dtype == torch.float64 else work.like(block).copy_(block)
        torch.sum(wide, -1, out=of_rows)
        of_columns.add_(wide.sum(-2))
        return
    size, dim = split
    blocks, rows = torch.split(block, size, dim), torch.split(of_rows, size, dim)
    columns = torch.split(of_columns, size, dim) if dim < 2 else repeat(of_columns)
    for block_, rows_, columns_ in zip(blocks, rows, columns, strict=False):
        _read_sums(block_, rows_, columns_, work)


def _read_squares(block: Tensor, columns: Tensor, rectangles: Tensor, work: Workspace) -> None:
    """Write the sums of squares on the diagonal, (N, n, side, side), into two of (N, n, side)."""
    if (split := cut(block, dims=2)) is not None:
        parts = (torch.split(x, *split) for x in (block, columns, rectangles))
        for block_, columns_, rectangles_ in zip(*parts, strict=True):
            _read_squares(block_, columns_, rectangles_, work)
        return
    square = work.like(block).copy_(block).tril_()
    torch.sum(square, -2, out=columns)
    up_to_s = square.tril_(-1).cumsum_(-1)
    # The rectangle of k = s + 1 is those partial sums of rows, added up over the rows t > s.
    rectangles[..., 1:] = up_to_s.tril_(-1).sum(-2)[..., :-1]


def _sum_rows(G: Tensor) -> Tensor:
    """Sum over all t, (N, S, S) -> float64 (N, S), by rows of one piece."""
    total = G.new_zeros(G.shape[0], G.shape[-1], dtype=torch.float64)
    for rows in torch.split(G, max(1, PIECE // total.numel()), dim=1):
        total += rows.sum(1, dtype=torch.float64)
    return total
