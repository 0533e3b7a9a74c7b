"""segment_sum and rectangle_sum: the two adjoint linear maps of D~, without a single subtraction.

A window sum taken as a difference of cumulative sums loses every digit once an early term is large,
and is inf - inf after a reset. Here each window is put together of pieces that belong to it alone, so that a
NaN or an infinity stays in the windows that hold it, and the error is that of summing just those terms
(docs/spec.md sections 2, 3). The sums themselves are taken in dmat/torch_kernels.py and, on CUDA,
dmat/triton_kernels.py; here they get their derivatives, and become operators of torch.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd.function import Function

from dmat import torch_kernels

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@cache
def _triton_kernels() -> ModuleType | None:
    """The CUDA path, or None where Triton is not installed; imported at the first CUDA tensor."""
    return import_module("dmat.triton_kernels") if find_spec("triton") else None


def kernels(x: Tensor) -> Any:
    """The module whose `window_sums` and `rectangle_sums` are for tensors that lie where x does."""
    return (_triton_kernels() if x.is_cuda else None) or torch_kernels


def window_sums(
    column: Tensor, v: Tensor, above: float | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """column[s] + the sum of v over window(t, s), (..., S) -> `dtype` (..., S, S), summed in float64."""
    sums: Tensor = kernels(v).window_sums(column.double(), v.double(), above, dtype, out)
    return sums


def rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """The sums of each column and each rectangle, (..., S, S) -> twice float64 (..., S)."""
    columns, rectangles = kernels(G).rectangle_sums(G, summed=summed)
    return columns, rectangles


# Their autograd. Both are linear and each is the other's adjoint, so the pair is closed under
# differentiation, forward and reverse, to any order.


def _on_batches(
    sums: Any, info: Any, in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...], constants: Any
) -> Any:
    """Call one of the pair under vmap: its tensors may have any batch, here the first dimension."""
    first = (
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=False)
    )
    return sums(*first, *constants)


class _WindowSums(Function):
    """`window_sums`; the derivative above the diagonal is 0, or that of column[s] if `summed`."""

    @staticmethod
    def forward(column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype) -> Tensor:
        return window_sums(column, v, above, dtype)

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

    @staticmethod
    def vmap(info: Any, in_dims: Any, column: Tensor, v: Tensor, *constants: Any) -> tuple[Tensor, int]:
        return _on_batches(_WindowSums.apply, info, in_dims, (column, v), constants), 0


class _RectangleSums(Function):
    """`rectangle_sums`, the adjoint."""

    @staticmethod
    def forward(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
        return rectangle_sums(G, summed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.dtype, ctx.summed = inputs[0].dtype, inputs[1]

    @staticmethod
    def backward(ctx: Any, columns: Tensor, rectangles: Tensor) -> tuple[Tensor, None]:
        return tangent_window_sums(columns, rectangles, ctx.summed, ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, G_dot: Tensor, _: None) -> tuple[Tensor, Tensor]:
        return differentiable_rectangle_sums(G_dot, ctx.summed)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, G: Tensor, summed: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _on_batches(_RectangleSums.apply, info, in_dims, (G,), (summed,)), (0, 0)


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
    return window_sums(column, v, above, dtype)


def _fake_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    return v.new_empty(*v.shape, v.shape[-1], dtype=dtype)


@torch.library.custom_op(
    "dmat::rectangle_sums", mutates_args=(), schema="(Tensor G, bool summed) -> (Tensor, Tensor)"
)
def _rectangle_sums_op(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    return rectangle_sums(G, summed)


def _fake_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    sums = G.new_empty(G.shape[:-1], dtype=torch.float64)
    return sums, torch.empty_like(sums)


def _register(op: Any, function: type[Function], fake: Any, tensors: int, out_dims: Any) -> None:
    op.register_fake(fake)
    op.register_autograd(function.backward, setup_context=function.setup_context)
    op.register_vmap(
        lambda info, in_dims, *args: (
            _on_batches(op, info, in_dims, args[:tensors], args[tensors:]),
            out_dims,
        )
    )


_register(_window_sums_op, _WindowSums, _fake_window_sums, 2, 0)
_register(_rectangle_sums_op, _RectangleSums, _fake_rectangle_sums, 1, (0, 0))


@torch.library.custom_op(
    "dmat::window_sums_out",
    mutates_args=("out",),
    schema="(Tensor column, Tensor v, float? above, Tensor(a!) out) -> ()",
)
def _window_sums_out_op(column: Tensor, v: Tensor, above: float | None, out: Tensor) -> None:
    window_sums(column, v, above, out.dtype, out)


_window_sums_out_op.register_fake(lambda column, v, above, out: None)


def write_window_sums(column: Tensor, v: Tensor, above: float | None, out: Tensor) -> None:
    """`window_sums` into out; no derivative."""
    if torch.compiler.is_compiling():
        _window_sums_out_op(column, v, above, out)
    else:
        window_sums(column, v, above, out.dtype, out)


def _as_operator(*tensors: Tensor) -> bool:
    """Whether they are traced, or batched by is_grads_batched=True, which no rule of a Function serves."""
    return torch.compiler.is_compiling() or any(is_legacy_batchedtensor(x) for x in tensors)


def differentiable_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    """`window_sums`, differentiable; if `summed`, the column also gets cotangents of the future."""
    sums = _window_sums_op if _as_operator(column, v) else _WindowSums.apply
    out: Tensor = sums(column, v, above, summed, dtype)  # type: ignore[no-untyped-call]
    return out


def tangent_window_sums(column: Tensor, v: Tensor, summed: bool, dtype: torch.dtype) -> Tensor:
    """The linear part of it: the future is 0, or column[s] if `summed`."""
    return differentiable_window_sums(column, v, None if summed else 0.0, summed, dtype)


def differentiable_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """`rectangle_sums`, differentiable."""
    sums = _rectangle_sums_op if _as_operator(G) else _RectangleSums.apply
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
