"""The two maps of dmat/segments.py on CUDA, by Triton kernels: one pass over each matrix.

The sequence is cut into chunks, and each window into at most three pieces that belong to it alone: what
is left of the chunk of s, the whole chunks between, and the chunk of t up to t; nothing is subtracted. A
program takes one tile of the matrix, the chunk r of rows t by the chunk q of columns s: past where q < r,
diagonal where q = r, future where q > r. Sums are taken in float64, in an order that neither values nor
timing can change. Why so: docs/decisions/0010-cuda-path.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 128
STEP = 64  # bytes of a column, that a program holds in registers at a time
EDGE = 8  # rows, the same on the diagonal, where it holds more of each
TILES = 16  # whose sums a program adds up at a time
MOST_PROGRAMS = 2**31 - 1  # in one launch


# What the kernels share.


@triton.jit
def _tile(n):
    """Batch, row and column of the tile of this program, of n x n a matrix.

    Those on the diagonal take longest, so they go first; then row by row, neighbours side by side.
    """
    program = tl.program_id(0)
    diagonal = tl.num_programs(0) // n
    others = tl.maximum(n - 1, 1)  # of a row
    if program < diagonal:
        b, r, q = program // n, program % n, program % n
    else:
        other = program - diagonal
        b, r, q = other // (n * others), other // others % n, other % others
        q += (q >= r).to(tl.int32)
    return b.to(tl.int64), r.to(tl.int64), q.to(tl.int64)


@triton.jit
def _start_of(b, inner, outer_stride, inner_stride):
    """Offset of matrix b in a batch of two dimensions, the last of size `inner`."""
    return b // inner * outer_stride + b % inner * inner_stride


@triton.jit
def _slot(r, q):
    """Number of the past tile (r, q), counted row by row."""
    return r * (r - 1) // 2 + q


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    """Round float64 once, to nearest even (below the smallest normal bfloat16 perhaps twice)."""
    if DTYPE == tl.float64 or DTYPE == tl.float32:
        y = x.to(DTYPE)
    else:
        # A half type is reached through float32. The upper word of x alone, made odd if the lower word
        # holds anything, goes there exactly and remembers on which side of a tie x was.
        bits = x.to(tl.int64, bitcast=True)
        inexact = ((bits & 0xFFFFFFFF) != 0).to(tl.int64)
        upper = ((bits >> 32) | inexact) << 32
        y = upper.to(tl.float64, bitcast=True).to(tl.float32).to(DTYPE)
    return y


@triton.jit
def _widened(x):
    """Widen to float64; through float32, as the interpreter misreads bfloat16 on any other way."""
    if x.dtype == tl.float64:
        y = x
    else:
        y = x.to(tl.float32).to(tl.float64)
    return y


# Window sums: the chunks first, then each tile.


@triton.jit(do_not_specialize=["S", "n"], do_not_specialize_on_alignment=["column", "v"])
def _sum_chunks(column, v, up_to_t, after_s, whole, S, n, C: tl.constexpr):
    """What windows take of one chunk: up to t; after s, with column[s]; or all of it."""
    program = tl.program_id(0)
    b, c = (program // n).to(tl.int64), (program % n).to(tl.int64)
    j = tl.arange(0, C)
    k = c * C + j
    terms = tl.load(v + b * S + k, mask=k < S, other=0.0)
    later = tl.load(v + b * S + k + 1, mask=(j + 1 < C) & (k + 1 < S), other=0.0)
    start = tl.load(column + b * S + k, mask=k < S, other=0.0)
    here = b * n * C + k
    tl.store(up_to_t + here, tl.cumsum(terms, axis=0))
    tl.store(after_s + here, start + tl.cumsum(later, axis=0, reverse=True))
    tl.store(whole + program, tl.sum(terms, axis=0))


@triton.jit
def _store_rows(tile, x, first, S, height, width, ALIGN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """Write x (ROWS, C) to the rows from `first` on of a tile of height x width."""
    i, j = first + tl.arange(0, ROWS), tl.arange(0, C)
    offsets = tl.multiple_of(i * S, ALIGN)[:, None] + j[None, :]
    tl.store(tile + offsets, x, mask=(i < height)[:, None] & (j < width)[None, :])


@triton.jit(do_not_specialize=["n"])
def _write_tile(
    out, column, v, up_to_t, after_s, whole, S, n, inner, outer_stride, inner_stride,
    ABOVE: tl.constexpr, ALIGN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Write one tile of the output, each element once."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    b, r, q = _tile(n)
    i, j = tl.arange(0, ROWS), tl.arange(0, C)
    height, width = S - r * C, tl.multiple_of(S - q * C, ALIGN)
    begin = _start_of(b, inner, outer_stride, inner_stride) + r * C * S + q * C
    tile = out + tl.multiple_of(begin, ALIGN)
    column += b * S + q * C
    v += b * S + r * C
    if q < r:
        between = tl.zeros((C,), tl.float64)
        for chunk in range(q + 1, r, C):
            between += tl.load(whole + b * n + chunk + j, mask=chunk + j < r, other=0.0)
        left = tl.load(after_s + (b * n + q) * C + j) + tl.sum(between, axis=0)
        for first in range(0, C, ROWS):
            right = tl.load(up_to_t + (b * n + r) * C + first + i)
            x = _rounded(left[None, :] + right[:, None], DTYPE)
            _store_rows(tile, x, first, S, height, width, ALIGN, C, ROWS)
    elif q > r:
        if ABOVE is None:
            future = tl.load(column + j, mask=j < width, other=0.0)
        else:
            future = tl.full((C,), ABOVE, tl.float64)
        x = tl.broadcast_to(_rounded(future, DTYPE)[None, :], (ROWS, C))
        for first in range(0, C, ROWS):
            _store_rows(tile, x, first, S, height, width, ALIGN, C, ROWS)
    else:
        left = tl.load(column + j, mask=j < width, other=0.0)
        for first in range(0, C, EDGE):
            t = first + tl.arange(0, EDGE)
            terms = tl.load(v + t, mask=t < height, other=0.0)
            # A select: a product with a mask of 0 would keep NaN.
            terms = tl.where(t[:, None] > j[None, :], terms[:, None], 0.0)
            x = left[None, :] + tl.cumsum(terms, axis=0)
            if ABOVE is not None:  # else column[s] stands there already
                x = tl.where(t[:, None] >= j[None, :], x, ABOVE)
            _store_rows(tile, _rounded(x, DTYPE), first, S, height, width, ALIGN, C, EDGE)
            left += tl.sum(terms, axis=0)


# Rectangle sums, the same turned over: each tile first, then the chunks.


@triton.jit
def _load_rows(
    tile, first, t_stride, s_stride, height, width,
    CAUSAL: tl.constexpr, ALIGN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The rows from `first` on of a tile of height x width as (ROWS, C), 0 where there are none.

    If CAUSAL, what is above the diagonal of the tile is not read, and 0 too.
    """
    i, j = first + tl.arange(0, ROWS), tl.arange(0, C)
    offsets = tl.multiple_of(i.to(tl.int64) * t_stride, ALIGN)[:, None] + (j.to(tl.int64) * s_stride)[None, :]
    mask = (i < height)[:, None] & (j < width)[None, :]
    if CAUSAL:
        mask = mask & (i[:, None] >= j[None, :])
    return tl.load(tile + offsets, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["n"])
def _read_tile(
    G, columns, rectangles, down, across, whole, S, n, tiles,
    inner, outer_stride, inner_stride, t_stride, s_stride,
    SUMMED: tl.constexpr, ALIGN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Read one tile of G, once, into sums down its columns, across its rows, and of the whole.

    The tile on the diagonal has only itself to answer for: its sums are begun in the results.
    """
    b, r, q = _tile(n)
    i, j = tl.arange(0, ROWS), tl.arange(0, C)
    height, width = tl.minimum(S - r * C, C), tl.multiple_of(S - q * C, ALIGN)
    begin = _start_of(b, inner, outer_stride, inner_stride) + r * C * t_stride + q * C * s_stride
    tile = G + tl.multiple_of(begin, ALIGN)
    if q < r:
        slot = _slot(r, q)
        column_sums = tl.zeros((ROWS, C), tl.float64)
        x = _load_rows(tile, 0, t_stride, s_stride, height, width, False, ALIGN, C, ROWS)
        for first in range(0, C, ROWS):
            terms = _widened(x)
            # The next rows are on their way while these are summed; after the last there are none.
            x = _load_rows(tile, first + ROWS, t_stride, s_stride, height, width, False, ALIGN, C, ROWS)
            column_sums += terms
            tl.store(across + (b * tiles + slot) * C + first + i, tl.sum(terms, axis=1))
        sums = tl.sum(column_sums, axis=0)
        tl.store(whole + b * tiles + slot, tl.sum(sums, axis=0))
        tl.store(down + (b * tiles * (1 + SUMMED) + slot) * C + j, sums)
    elif q == r:
        edge_sums = tl.zeros((EDGE, C), tl.float64)
        corners = tl.zeros((EDGE, C), tl.float64)
        for first in range(0, C, EDGE):
            x = _load_rows(tile, first, t_stride, s_stride, height, width, not SUMMED, ALIGN, C, EDGE)
            terms = _widened(x)
            edge_sums += terms
            under = (first + tl.arange(0, EDGE))[:, None] > j[None, :]
            # Of row t, the sum over s < k stands at k - 1; the rectangle of k has the rows t >= k.
            corners += tl.where(under, tl.cumsum(terms, axis=1), 0.0)
        here = b * S + q * C + j
        tl.store(columns + here, tl.sum(edge_sums, axis=0), mask=j < width)
        tl.store(rectangles + here + 1, tl.sum(corners, axis=0), mask=(j + 1 < width) & (j + 1 < C))
        tl.store(rectangles + here, tl.zeros((C,), tl.float64), mask=(j == 0) & (j < width))
    elif SUMMED:
        column_sums = tl.zeros((ROWS, C), tl.float64)
        for first in range(0, C, ROWS):
            x = _load_rows(tile, first, t_stride, s_stride, height, width, False, ALIGN, C, ROWS)
            column_sums += _widened(x)
        slot = tiles + _slot(q, r)
        tl.store(down + (b * tiles * 2 + slot) * C + j, tl.sum(column_sums, axis=0))


@triton.jit(do_not_specialize=["S", "n", "tiles"])
def _add_tiles(
    columns, rectangles, down, across, whole, S, n, tiles,
    SUMMED: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Add to the results of one chunk what the tiles off the diagonal hold of them."""
    program = tl.program_id(0)
    b, c = (program // n).to(tl.int64), (program % n).to(tl.int64)
    i, j = tl.arange(0, TILES)[:, None], tl.arange(0, C)[None, :]
    down += b * tiles * (1 + SUMMED) * C
    across += b * tiles * C
    whole += b * tiles
    under = tl.zeros((TILES, C), tl.float64)  # of column s, over later chunks of t
    before = tl.zeros((TILES, C), tl.float64)  # of column s - 1, the same; 0 for the first
    corner = tl.zeros((TILES, C), tl.float64)  # the tiles of later t and earlier s
    for chunk in range(c + 1, n, TILES):
        r = chunk + i
        at = down + _slot(r, c) * C + j
        under += tl.load(at, mask=r < n, other=0.0)
        before += tl.load(at - 1, mask=(r < n) & (j > 0), other=0.0)
        for earlier in range(0, c, C):
            q = earlier + j
            corner += tl.load(whole + _slot(r, q), mask=(r < n) & (q < c), other=0.0)
    left = tl.zeros((TILES, C), tl.float64)  # of row t, over earlier chunks of s
    for chunk in range(0, c, TILES):
        q = chunk + i
        left += tl.load(across + _slot(c, q) * C + j, mask=q < c, other=0.0)
    of_k = tl.cumsum(tl.sum(left, axis=0), axis=0, reverse=True) + tl.cumsum(tl.sum(before, axis=0), axis=0)
    if SUMMED:
        for chunk in range(0, c, TILES):
            r = chunk + i
            under += tl.load(down + (tiles + _slot(c, r)) * C + j, mask=r < c, other=0.0)
    k = c * C + tl.arange(0, C)
    here = b * S + k
    of_k += tl.sum(tl.sum(corner, axis=0), axis=0) + tl.load(rectangles + here, mask=k < S, other=0.0)
    of_s = tl.sum(under, axis=0) + tl.load(columns + here, mask=k < S, other=0.0)
    tl.store(rectangles + here, of_k, mask=k < S)
    tl.store(columns + here, of_s, mask=k < S)


# Their launches.


class _Batch(NamedTuple):
    """Matrices from `first` on of a flat batch: matrix b begins at the offset of `_start_of`."""

    first: int
    size: int
    matrices: Tensor
    inner: int
    outer_stride: int
    inner_stride: int

    def of(self, vectors: Tensor) -> Tensor:
        """Their part of (batch, S)."""
        return vectors[self.first : self.first + self.size]

    def alignment(self, *strides: int) -> int:
        """The power of two that divides the strides of the batch and these, and every chunk."""
        return math.gcd(SMALLEST_CHUNK, self.outer_stride, self.inner_stride, *strides)


def _batches(x: Tensor, most: int, first: int = 0) -> Iterator[_Batch]:
    """Cut the batch of x (..., S, S) where it has more than two strides, or more than `most`."""
    count = math.prod(x.shape[:-2])
    dimensions: list[tuple[int, int]] = []  # size and stride, those merged that are one
    for size, stride in zip(x.shape[:-2], x.stride()[:-2], strict=True):
        if dimensions and dimensions[-1][1] == size * stride:
            dimensions[-1] = dimensions[-1][0] * size, stride
        elif size > 1:
            dimensions.append((size, stride))
    if len(dimensions) <= 2 and count <= most:
        (_, outer_stride), (inner, inner_stride) = [(1, 0), (1, 0), *dimensions][-2:]
        yield _Batch(first, count, x, inner, outer_stride, inner_stride)
    elif len(x) == 1:
        yield from _batches(x[0], most, first)
    else:
        half = len(x) // 2
        yield from _batches(x[:half], most, first)
        yield from _batches(x[half:], most, first + count // len(x) * half)


def _chunk(S: int) -> int:
    """The length of a chunk: that of the sequence, if it is short."""
    return min(max(int(triton.next_power_of_2(S)), SMALLEST_CHUNK), LARGEST_CHUNK)


def _rows(batch: _Batch, C: int) -> int:
    """How many rows of a tile to take at a time."""
    return min(STEP // batch.matrices.element_size(), C)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def window_sums(
    column: Tensor, v: Tensor, above: float | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """column[s] + the sum of v over window(t, s), for float64 (..., S) -> `dtype` (..., S, S).

    Above the diagonal stands the constant `above`, or column[s] for None. Every element of the
    result is written once. If given, it is `out`, whose matrices must be contiguous.
    """
    shape = torch.broadcast_shapes(column.shape, v.shape)  # type: ignore[no-untyped-call]
    S = shape[-1]
    if out is None:
        out = v.new_empty(*shape, S, dtype=dtype)
    if (out.shape, out.dtype) != ((*shape, S), dtype) or (S > 1 and out.stride()[-2:] != (S, 1)):
        raise ValueError(
            f"out has shape {tuple(out.shape)}, strides {out.stride()} and dtype {out.dtype}; "
            f"expected {(*shape, S)}, contiguous in its last two dimensions, and {dtype}"
        )
    if out.numel() == 0:
        return out
    column, v = (x.expand(shape).reshape(-1, S).contiguous() for x in (column, v))
    C = _chunk(S)
    n = triton.cdiv(S, C)
    with _on(v.device):
        for batch in _batches(out, max(1, MOST_PROGRAMS // n**2)):
            _write(batch, batch.of(column), batch.of(v), above, n, C)
    return out


def _write(batch: _Batch, column: Tensor, v: Tensor, above: float | None, n: int, C: int) -> None:
    """Write the window sums of one batch."""
    count, S = v.shape
    up_to_t, after_s = v.new_empty(2, count, n * C)
    whole = v.new_empty(count, n)
    _sum_chunks[(count * n,)](column, v, up_to_t, after_s, whole, S, n, C=C)
    _write_tile[(count * n * n,)](
        batch.matrices, column, v, up_to_t, after_s, whole, S, n, *batch[3:],
        ABOVE=above, ALIGN=batch.alignment(S), C=C, ROWS=_rows(batch, C), EDGE=min(EDGE, C),
    )  # fmt: skip


def rectangle_sums(G: Tensor, *, summed: bool) -> tuple[Tensor, Tensor]:
    """The sums of each column and of each rectangle, (..., S, S) -> twice float64 (..., S).

    A column is summed over t >= s, or over all t if `summed`; a rectangle over t >= k > s. What is
    above the diagonal is not read unless `summed`.
    """
    S = G.shape[-1]
    columns, rectangles = (G.new_empty(G.shape[:-1], dtype=torch.float64) for _ in range(2))
    if G.numel() == 0:
        return columns, rectangles
    C = _chunk(S)
    n = triton.cdiv(S, C)
    with _on(G.device):
        for batch in _batches(G, max(1, MOST_PROGRAMS // n**2)):
            _read(batch, batch.of(columns.view(-1, S)), batch.of(rectangles.view(-1, S)), summed, n, C)
    return columns, rectangles


def _read(batch: _Batch, columns: Tensor, rectangles: Tensor, summed: bool, n: int, C: int) -> None:
    """Write the column and rectangle sums of one batch."""
    count, S = columns.shape
    strides = batch.matrices.stride()[-2:]
    tiles = n * (n - 1) // 2
    down = columns.new_empty(count, tiles * (1 + summed), C)
    across = columns.new_empty(count, tiles, C)
    whole = columns.new_empty(count, tiles)
    _read_tile[(count * n * n,)](
        batch.matrices, columns, rectangles, down, across, whole, S, n, tiles, *batch[3:], *strides,
        SUMMED=summed, ALIGN=batch.alignment(S, strides[0]), C=C, ROWS=_rows(batch, C), EDGE=min(EDGE, C),
    )  # fmt: skip
    if tiles:
        _add_tiles[(count * n,)](
            columns, rectangles, down, across, whole, S, n, tiles, SUMMED=summed, C=C, TILES=TILES
        )
