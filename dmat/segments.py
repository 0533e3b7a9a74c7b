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
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

import dmat.torch_kernels as torch_kernels

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
    rows_apart = out is not None and out.numel() > 0 and out.stride()[-2:] != (out.shape[-1], 1)
    module = torch_kernels if rows_apart else kernels(v)  # Triton writes whole matrices
    sums: Tensor = module.window_sums(column.double(), v.double(), above, dtype, out)
    return sums


def rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """The sums of each column and each rectangle, (..., S, S) -> twice float64 (..., S)."""
    columns, rectangles = kernels(G).rectangle_sums(G, summed=summed)
    return columns, rectangles


# As operators of torch. Both are linear and each is the other's adjoint, so the pair is closed under
# differentiation, forward and reverse, to any order (docs/decisions/0007-one-operator.md).

_library: Any = torch.library.Library("dmat", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("window_sums(Tensor column, Tensor v, float? above, bool summed, ScalarType dtype) -> Tensor")
_library.define("rectangle_sums(Tensor G, bool summed) -> (Tensor, Tensor)")
_library.define("window_sums_out(Tensor column, Tensor v, float? above, Tensor(a!) out) -> ()")


def differentiable_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    """`window_sums`, differentiable; if `summed`, the column also gets cotangents of the future."""
    out: Tensor = torch.ops.dmat.window_sums.default(column, v, above, summed, dtype)
    return out


def tangent_window_sums(column: Tensor, v: Tensor, summed: bool, dtype: torch.dtype) -> Tensor:
    """The linear part of it: the future is 0, or column[s] if `summed`."""
    return differentiable_window_sums(column, v, None if summed else 0.0, summed, dtype)


def differentiable_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """`rectangle_sums`, differentiable."""
    columns, rectangles = torch.ops.dmat.rectangle_sums.default(G, summed)
    return columns, rectangles


def write_window_sums(column: Tensor, v: Tensor, above: float | None, out: Tensor) -> None:
    """`window_sums` into out; no derivative."""
    torch.ops.dmat.window_sums_out.default(column, v, above, out)


class _WindowSums:
    """The derivative of `window_sums`: above the diagonal 0, or that of column[s] if `summed`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, column, v, _, ctx.summed, ctx.dtype = inputs
        ctx.dtypes = column.dtype, v.dtype

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[None, Tensor, Tensor, None, None, None]:
        columns, rectangles = differentiable_rectangle_sums(G, ctx.summed)
        return None, columns.to(ctx.dtypes[0]), rectangles.to(ctx.dtypes[1]), None, None, None

    @staticmethod
    def tangent(ctx: Any, _: None, column_dot: Tensor, v_dot: Tensor, *__: None) -> Tensor:
        return tangent_window_sums(column_dot, v_dot, ctx.summed, ctx.dtype)


class _RectangleSums:
    """The derivative of `rectangle_sums`, the adjoint."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, G, ctx.summed = inputs
        ctx.dtype = G.dtype

    @staticmethod
    def backward(ctx: Any, columns: Tensor, rectangles: Tensor) -> tuple[None, Tensor, None]:
        return None, tangent_window_sums(columns, rectangles, ctx.summed, ctx.dtype), None

    @staticmethod
    def tangent(ctx: Any, _: None, G_dot: Tensor, __: None) -> tuple[Tensor, Tensor]:
        return differentiable_rectangle_sums(G_dot, ctx.summed)


def _derivative(op: Any, of: Any) -> Any:
    """What stands at the Autograd key of an operator: it records the derivative, and goes on to the sums.

    torch.library.custom_op would write it, but without forward mode: its tangents are lost in silence
    (torch 2.13). A Function turns both modes off while it runs; an outer transform of torch.func, which
    op.redispatch goes through, must find them on, or its own derivative is 0 in silence.
    """

    class Derivative(_SingleLevelFunction):
        setup_context = of.setup_context
        backward = of.backward

        @staticmethod
        def forward(keys: Any, *args: Any) -> Any:
            with torch.enable_grad(), _set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
                return op.redispatch(keys, *args)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return of.tangent(ctx, *tangents)

    function: Any = Derivative

    def kernel(keys: Any, *args: Any) -> Any:
        with enable_single_level_autograd_function():
            return function.apply(keys & torch._C._after_autograd_keyset, *args)

    return kernel


def _fake_window_sums(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    return v.new_empty(*v.shape, v.shape[-1], dtype=dtype)


def _fake_rectangle_sums(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    sums = G.new_empty(G.shape[:-1], dtype=torch.float64)
    return sums, torch.empty_like(sums)


def _vmap_window_sums(
    info: Any, in_dims: Any, column: Tensor, v: Tensor, *constants: Any
) -> tuple[Tensor, int]:
    column, v = (_batch_first(x, dim, info.batch_size) for x, dim in zip((column, v), in_dims, strict=False))
    return differentiable_window_sums(column, v, *constants), 0


def _vmap_rectangle_sums(
    info: Any, in_dims: Any, G: Tensor, summed: bool
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return differentiable_rectangle_sums(_batch_first(G, in_dims[0], info.batch_size), summed), (0, 0)


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _window_sums_kernel(
    column: Tensor, v: Tensor, above: float | None, summed: bool, dtype: torch.dtype
) -> Tensor:
    return window_sums(column, v, above, dtype)


def _window_sums_out_kernel(column: Tensor, v: Tensor, above: float | None, out: Tensor) -> None:
    window_sums(column, v, above, out.dtype, out)


def _register(name: str, kernel: Any, fake: Any) -> None:
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dmat::{name}", fake, lib=_library)


def _register_derivative(name: str, derivative: Any, vmap: Any) -> None:
    op = getattr(torch.ops.dmat, name).default
    _library.impl(name, _derivative(op, derivative), "Autograd", with_keyset=True)
    torch.library.register_vmap(f"dmat::{name}", vmap, lib=_library)


_register("window_sums", _window_sums_kernel, _fake_window_sums)
_register("rectangle_sums", rectangle_sums, _fake_rectangle_sums)
_register("window_sums_out", _window_sums_out_kernel, lambda column, v, above, out: None)
_register_derivative("window_sums", _WindowSums, _vmap_window_sums)
_register_derivative("rectangle_sums", _RectangleSums, _vmap_rectangle_sums)


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
