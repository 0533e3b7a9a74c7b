"""segment_sum and rectangle_sum: the two adjoint linear maps of D~, without a single subtraction.

A window sum taken as a difference of cumulative sums loses every digit once an early term is large,
and is inf - inf after a reset. Here the sequence is cut into chunks, and each window into at most
three pieces that belong to it alone: what is left of the chunk of s, the whole chunks between, and
the chunk of t up to t. Only windows are ever added up, so a NaN or an infinity stays in the windows
that hold it, and the error is that of summing just those terms, in float64 for every dtype
(Higham, Accuracy and Stability of Numerical Algorithms, section 4.2; docs/spec.md sections 2, 3).
The adjoint is the same picture turned over: rectangles instead of windows.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import Function
from torch.nn.functional import pad

CHUNK = 64
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def chunk_slices(S: int) -> list[slice]:
    """The chunks of a sequence of length S; the last may be shorter."""
    return [slice(start, min(start + CHUNK, S)) for start in range(0, S, CHUNK)]


def part(v: Tensor, piece: slice) -> Tensor:
    """View v[..., piece]; by narrow, as torch's vmap lacks a rule for an index that takes all."""
    return v.narrow(-1, piece.start, piece.stop - piece.start)


def block(x: Tensor, rows: slice, columns: slice) -> Tensor:
    """View x[..., rows, columns]."""
    return part(x, columns).narrow(-2, rows.start, rows.stop - rows.start)


def in_chunks(v: Tensor, n: int) -> Tensor:
    """(..., S) -> (..., n, CHUNK), the last chunk padded with zeros, which no window reads."""
    return pad(v, (0, n * CHUNK - v.shape[-1])).reshape(*v.shape[:-1], n, CHUNK)


def in_sequence(chunks: Tensor, S: int) -> Tensor:
    """(..., n, CHUNK) -> (..., S), without the padding."""
    n, C = chunks.shape[-2:]
    return chunks.reshape(*chunks.shape[:-2], n * C).narrow(-1, 0, S)


def sum_from(v: Tensor) -> Tensor:
    """(..., n) -> (..., n): [k] = v[k] + .. + v[n - 1]."""
    return v.flip(-1).cumsum(-1).flip(-1)


# The two maps on one square. tril and triu select: a product with a mask of 0 would keep NaN.


def square_windows(v: Tensor) -> Tensor:
    """(..., n) -> (..., n, n): [t, s] = sum of v[k], s < k <= t; 0 on and above the diagonal."""
    n = v.shape[-1]
    after_s = v.unsqueeze(-2).expand(*v.shape, n).triu(1)  # [s, k]
    return after_s.cumsum(-1).mT


def square_rectangles(square: Tensor) -> Tensor:
    """(..., n, n) -> (..., n): [k] = sum of square[t, s], t >= k > s; its adjoint."""
    up_to_s = square.tril(-1).cumsum(-1)
    # The rectangle of k = s + 1 is those partial sums of rows, added up over the rows t > s.
    return pad(up_to_s.tril(-1).sum(-2)[..., :-1], (1, 0))


# The two maps on the whole sequence: first in the squares on the diagonal, whose t and s lie in one
# chunk, then across chunks.


def window_sums(column: Tensor, v: Tensor, above: float | None, dtype: torch.dtype) -> Tensor:
    """column[s] + the sum of v over window(t, s), for float64 (..., S) -> `dtype` (..., S, S).

    Above the diagonal stands the constant `above`, or column[s] for None. Every element of the
    result is written once; what is computed beside it takes O(S CHUNK).
    """
    S = v.shape[-1]
    out = (column + v).new_empty(*v.shape, S, dtype=dtype)  # under vmap either may have the batch
    chunks = chunk_slices(S)
    for rows in chunks:
        square = square_windows(part(v, rows)) + part(column, rows).unsqueeze(-2)
        later = slice(rows.stop, S)
        if above is None:
            block(out, rows, later).copy_(part(column, later).unsqueeze(-2))
        else:
            future = torch.ones(square.shape[-2:], dtype=torch.bool, device=v.device).triu(1)
            square.masked_fill_(future, above)
            block(out, rows, later).fill_(above)
        block(out, rows, rows).copy_(square)
    if len(chunks) > 1:
        _write_across_chunks(out, column, v)
    return out


def _write_across_chunks(out: Tensor, column: Tensor, v: Tensor) -> None:
    """Write the entries whose t and s lie in different chunks: one addition an element."""
    chunks = chunk_slices(v.shape[-1])
    terms = in_chunks(v, len(chunks))  # (..., n, CHUNK)
    up_to_t = terms.cumsum(-1)  # in the chunk of t
    after_s = pad(sum_from(terms)[..., 1:], (0, 1)) + in_chunks(column, len(chunks))  # in that of s
    between = square_windows(up_to_t[..., -1])  # [r - 1, q]: the chunks between q and r
    for r, rows in enumerate(chunks[1:], 1):
        left = in_sequence(after_s[..., :r, :] + between[..., r - 1, :r, None], rows.start)
        right = up_to_t[..., r, : rows.stop - rows.start]
        block(out, rows, slice(0, rows.start)).copy_(left.unsqueeze(-2) + right.unsqueeze(-1))


def rectangle_sums(G: Tensor, *, summed: bool) -> tuple[Tensor, Tensor]:
    """The sums of each column and of each rectangle, (..., S, S) -> twice float64 (..., S).

    A column is summed over t >= s, or over all t if `summed`; a rectangle over t >= k > s.
    """
    chunks = chunk_slices(G.shape[-1])
    if not chunks:
        empty = G.new_zeros(G.shape[:-1], dtype=torch.float64)
        return empty, empty.clone()
    squares = [block(G, rows, rows).double() for rows in chunks]
    columns = torch.cat([square.tril().sum(-2) for square in squares], -1)
    rectangles = torch.cat([square_rectangles(square) for square in squares], -1)
    if len(chunks) > 1:
        under, across = _read_across_chunks(G)
        columns, rectangles = columns + under, rectangles + across
    return _sum_rows(G) if summed else columns, rectangles


def _read_across_chunks(G: Tensor) -> tuple[Tensor, Tensor]:
    """What the entries whose t and s lie in different chunks add to columns and rectangles."""
    S, batch, chunks = G.shape[-1], G.shape[:-2], chunk_slices(G.shape[-1])
    n = len(chunks)
    left = G.new_zeros(*batch, S, dtype=torch.float64)  # of row t, over the chunks before its own
    under = G.new_zeros(*batch, n, CHUNK, dtype=torch.float64)  # of column s, over those after
    blocks = G.new_zeros(*batch, n, n, dtype=torch.float64)  # row r of whole blocks at r - 1
    for r, rows in enumerate(chunks[1:], 1):
        strip = block(G, rows, slice(0, rows.start)).double()
        part(left, rows).copy_(strip.sum(-1))
        down = strip.sum(-2).reshape(*batch, r, CHUNK)
        under[..., :r, :] += down
        blocks[..., r - 1, :r] = down.sum(-1)
    of_t = sum_from(in_chunks(left, n))  # t >= k in the chunk of k, s in earlier ones
    of_s = pad(under.cumsum(-1)[..., :-1], (1, 0))  # s < k in the chunk of k, t in later ones
    of_neither = square_rectangles(blocks).unsqueeze(-1)  # t in later chunks, s in earlier ones
    return in_sequence(under, S), in_sequence(of_t + of_s + of_neither, S)


def _sum_rows(G: Tensor) -> Tensor:
    """Sum over all t in float64, by blocks of rows: a whole float64 copy of G may be too big."""
    total = G.new_zeros(G.shape[:-1], dtype=torch.float64)
    for rows in chunk_slices(G.shape[-1]):
        total += block(G, rows, slice(0, G.shape[-1])).double().sum(-2)
    return total


# Their autograd. Both are linear and each is the other's adjoint, so the pair is closed under
# differentiation, forward and reverse, to any order.


class _WindowSums(Function):
    """`window_sums`; the derivative above the diagonal is 0, or that of column[s] if `summed`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype) -> Tensor:
        return window_sums(column.double(), v.double(), above, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        column, v, _, ctx.summed, ctx.dtype = inputs
        ctx.dtypes = column.dtype, v.dtype

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        columns, rectangles = differentiable_rectangle_sums(G, ctx.summed)
        return columns.to(ctx.dtypes[0]), rectangles.to(ctx.dtypes[1]), None, None, None

    @staticmethod
    def jvp(ctx: Any, column_dot: Tensor, v_dot: Tensor, *_: None) -> Tensor:
        return tangent_window_sums(column_dot, v_dot, ctx.summed, ctx.dtype)


class _RectangleSums(Function):
    """`rectangle_sums`, the adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
        return rectangle_sums(G, summed=summed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.dtype, ctx.summed = inputs[0].dtype, inputs[1]

    @staticmethod
    def backward(ctx: Any, columns: Tensor, rectangles: Tensor) -> tuple[Tensor, None]:
        return tangent_window_sums(columns, rectangles, ctx.summed, ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, G_dot: Tensor, _: None) -> tuple[Tensor, Tensor]:
        return differentiable_rectangle_sums(G_dot, ctx.summed)


# Under torch.compile and torch.export the pair stands as two operators of their own: traced through, the
# loops over chunks would be unrolled into a graph for each S, and a Function with forward mode is refused.


@torch.library.custom_op(
    "dmat::window_sums",
    mutates_args=(),
    schema="(Tensor column, Tensor v, float? above, bool summed, ScalarType dtype) -> Tensor",
)
def _window_sums_op(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    return window_sums(column.double(), v.double(), above, dtype)


def _fake_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    return v.new_empty(*v.shape, v.shape[-1], dtype=dtype)


def _vmap_window_sums(
    info: Any, in_dims: Any, column: Tensor, v: Tensor, *constants: Any
) -> tuple[Tensor, int]:
    column, v = (_batch_first(x, dim, info.batch_size) for x, dim in zip((column, v), in_dims, strict=False))
    return _window_sums_op(column, v, *constants), 0


@torch.library.custom_op(
    "dmat::rectangle_sums", mutates_args=(), schema="(Tensor G, bool summed) -> (Tensor, Tensor)"
)
def _rectangle_sums_op(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    return rectangle_sums(G, summed=summed)


def _fake_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    sums = G.new_empty(G.shape[:-1], dtype=torch.float64)
    return sums, torch.empty_like(sums)


def _vmap_rectangle_sums(
    info: Any, in_dims: Any, G: Tensor, summed: bool
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return _rectangle_sums_op(_batch_first(G, in_dims[0], info.batch_size), summed), (0, 0)


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _register(op: Any, function: type[Function], fake: Any, vmap: Any) -> None:
    op.register_fake(fake)
    op.register_vmap(vmap)
    op.register_autograd(function.backward, setup_context=function.setup_context)


_register(_window_sums_op, _WindowSums, _fake_window_sums, _vmap_window_sums)
_register(_rectangle_sums_op, _RectangleSums, _fake_rectangle_sums, _vmap_rectangle_sums)


def differentiable_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    """`window_sums`, differentiable; if `summed`, the column also gets cotangents of the future."""
    sums = _window_sums_op if torch.compiler.is_compiling() else _WindowSums.apply
    out: Tensor = sums(column, v, above, summed, dtype)  # type: ignore[no-untyped-call]
    return out


def tangent_window_sums(column: Tensor, v: Tensor, summed: bool, dtype: torch.dtype) -> Tensor:
    """The linear part of it: the future is 0, or column[s] if `summed`."""
    return differentiable_window_sums(column, v, None if summed else 0.0, summed, dtype)


def differentiable_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """`rectangle_sums`, differentiable."""
    sums = _rectangle_sums_op if torch.compiler.is_compiling() else _RectangleSums.apply
    columns, rectangles = sums(G, summed)  # type: ignore[no-untyped-call]
    return columns, rectangles


# What the user calls.


def segment_sum(v: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S S"]:
    """Sum over every window of the sequence: [t, s] = v[s+1] + .. + v[t].

    0 on the diagonal; the constant -inf above it, where the derivative is 0 and a cotangent is not
    read. A NaN or infinity is in exactly the windows that hold it. Sums are taken in float64 and
    rounded once. The adjoint of `rectangle_sum` (docs/spec.md section 2), differentiable to any
    order in both modes.

    Args:
        v: terms, shape (..., S), any sign, of float64, float32, bfloat16 or float16. In D~ they are
            log decays, in nats.

    Returns:
        A new tensor of shape (..., S, S) with the dtype and device of v.

    Raises:
        TypeError: v is no tensor, or has another dtype.
        ValueError: v has no dimension.
    """
    check_tensor("v", v)
    if v.ndim < 1:
        raise ValueError(f"v has shape {tuple(v.shape)}; expected (..., S)")
    return differentiable_window_sums(torch.zeros_like(v), v, -torch.inf, False, v.dtype)


def rectangle_sum(G: Float[Tensor, "*batch S S"]) -> Float[Tensor, "*batch S"]:
    """Sum over the rectangle below and left of each k: R[k] = sum of G[t, s], t >= k > s.

    The diagonal and all above it are not read into any sum, NaN included. R[0] is exactly 0. Sums
    are taken in float64 and rounded once. The adjoint of `segment_sum` (docs/spec.md section 2):
    the gradient of D~ with respect to its log decays. Differentiable to any order in both modes.

    Args:
        G: cotangents, shape (..., S, S), row t, column s, of float64, float32, bfloat16 or float16;
            any strides.

    Returns:
        A new tensor of shape (..., S) with the dtype and device of G.

    Raises:
        TypeError: G is no tensor, or has another dtype.
        ValueError: the last two dimensions of G are not a square.
    """
    check_tensor("G", G)
    if G.ndim < 2 or G.shape[-1] != G.shape[-2]:
        raise ValueError(f"G has shape {tuple(G.shape)}; expected (..., S, S)")
    return differentiable_rectangle_sums(G, False)[1].to(G.dtype)


def check_tensor(name: str, x: object) -> None:
    """Raise TypeError unless x is a tensor of a dtype that is computed in float64."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; expected one of {', '.join(str(d) for d in DTYPES)}")
