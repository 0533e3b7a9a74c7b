"""Patch bfloat16: Triton's interpreter stores a bfloat16 as its bits, and computes with the bits as integers.

Here each operation is computed in float32 and rounded once to nearest even; NaN stays NaN. A sum of bfloat16
adds halves pairwise and rounds every addition: a kernel that wants to sum in float32 must convert first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from triton import language
from triton.runtime import interpreter

BF16 = language.bfloat16
Handle = interpreter.TensorHandle
NAN = 0x7FC0  # the bits of NaN
ROUNDED = ["fadd", "fsub", "fmul", "fdiv", "frem", "precise_divf", "fma", "clampf"]
ROUNDED += ["minimumf", "minnumf", "maximumf", "maxnumf", "floor", "ceil"]
ROUNDED += ["exp", "exp2", "log", "log2", "sqrt", "precise_sqrt", "rsqrt", "sin", "cos", "erf"]
COMPARED = [f"fcmp{order}{kind}" for order in "OU" for kind in ("LT", "GT", "LE", "GE", "EQ", "NE")]
_RMW = interpreter._ir.ATOMIC_OP
ATOMIC: dict[Any, Callable[[Any, Any], Any]] = {_RMW.FADD: np.add, _RMW.XCHG: lambda old, new: new}


def wide(bits: Any) -> Any:
    """Return the float32 values of bfloat16 bits; that is exact."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrow(x: Any, toward_zero: bool = False) -> Any:
    """Return the bits of numbers rounded to bfloat16. Wider numbers are rounded to float32 first."""
    x = np.asarray(x, dtype=np.float32)
    bits = x.view(np.uint32)
    up = np.uint32(0) if toward_zero else ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return np.where(np.isnan(x), (bits >> 16) | 0x40, (bits + up) >> 16).astype(np.uint16)


def is_bfloat16(x: Any) -> bool:
    """Whether x is a handle of bfloat16."""
    return isinstance(x, Handle) and x.dtype.scalar == BF16


def widened(x: Any) -> Any:
    """Return a handle of bfloat16 as a handle of float32. Return anything else unchanged."""
    return Handle(wide(x.data), language.float32) if is_bfloat16(x) else x


def narrowed(x: Any) -> Any:
    """Return a handle of float32 rounded to a handle of bfloat16."""
    return Handle(narrow(x.data), BF16)


def _through_float32(plain: Callable[..., Any], compares: bool) -> Callable[..., Any]:
    def operation(self: Any, *arguments: Any) -> Any:
        if not any(is_bfloat16(x) for x in arguments):
            return plain(self, *arguments)
        found = plain(self, *(widened(x) for x in arguments))
        return Handle(np.asarray(found.data, dtype=bool), language.int1) if compares else narrowed(found)

    return operation


def _cast(plain: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        if dst_type.scalar == BF16:
            return src if is_bfloat16(src) else narrowed(src)
        return plain(self, widened(src), dst_type)

    return cast


def _cast_rounding(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the cast with a rounding mode. The mode matters only for casts to bfloat16."""

    def cast(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        types = (src.dtype.scalar, dst_type.scalar)
        if BF16 not in types or any(t.primitive_bitwidth < 16 for t in types):
            return plain(self, src, dst_type, rounding)
        if dst_type.scalar == BF16 and rounding == interpreter._ir.ROUNDING_MODE.RTZ:
            return Handle(narrow(widened(src).data, toward_zero=True), BF16)
        return self.cast_impl(src, dst_type)

    return cast


def _dot(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap tl.dot: products of bfloat16 are exact in float32, and are summed in float32."""

    def create_dot(self: Any, a: Any, b: Any, d: Any, *others: Any) -> Any:
        found = plain(self, widened(a), widened(b), widened(d), *others)
        return narrowed(found) if is_bfloat16(d) else found

    return create_dot


def _atomic(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap atomic updates: for each address in turn, return the old value and store the new one."""

    def create_atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *others: Any) -> Any:
        if not is_bfloat16(val) or op not in ATOMIC:
            return plain(self, op, ptr, val, mask, *others)
        before = np.zeros(val.data.shape, dtype=np.uint16)
        asked = np.broadcast_to(np.asarray(mask.data, dtype=bool), val.data.shape)
        for place in zip(*np.nonzero(asked), strict=True):
            there = ctypes.c_uint16.from_address(int(ptr.data[place]))
            before[place] = there.value
            there.value = int(narrow(ATOMIC[op](wide(before[place]), wide(val.data[place]))))
        return Handle(before, BF16)

    return create_atomic_rmw


def _padded(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap padded loads: Triton's would pad with a float NaN cast to an integer; this one pads with NAN."""

    def load(self: Any, ptr: Any, *others: Any) -> Any:
        found = plain(self, ptr, *others)
        padding = getattr(ptr, "padding", others[1] if len(others) > 1 else None)
        if found.dtype.scalar != BF16 or padding != interpreter._ir.PADDING_OPTION.PAD_NAN:
            return found
        _, inside = ptr.materialize_pointers(others[0])
        return Handle(np.where(inside, found.data, np.uint16(NAN)), BF16)

    return load


def _summed(bits: Any, axis: int) -> Any:
    x = np.moveaxis(wide(bits), axis, 0)
    while len(x) > 1:
        half = len(x) // 2
        both = wide(narrow(x[:half] + x[half : 2 * half]))
        x = np.concatenate([both, x[2 * half :]])
    return narrow(x[0])


def _reduced(plain: Callable[..., Any]) -> Callable[..., Any]:
    standard = language.standard
    choices = ["_argmin_combine_tie_break_left", "_argmax_combine_tie_break_left"]
    choices += ["_elementwise_max", "_elementwise_min"]

    def apply_impl(self: Any, given: Any) -> Any:
        if given[0].dtype.scalar != BF16:
            return plain(self, given)
        data = given[0].handle.data
        if self.combine_fn == standard._sum_combine:
            total = _summed(data.ravel() if self.axis is None else data, self.axis or 0)
            if self.keep_dims:
                total = np.expand_dims(total, tuple(range(data.ndim)) if self.axis is None else self.axis)
            return self.to_tensor(total, BF16)
        if not any(self.combine_fn == getattr(standard, name) for name in choices):
            return plain(self, given)  # reduces one element after another with the patched operations
        found = plain(self, (self.to_tensor(wide(data), language.float32), *given[1:]))
        value, *index = found if isinstance(found, tuple) else (found,)
        value = self.to_tensor(narrow(value.handle.data).reshape(value.shape), BF16)
        return (value, *index) if index else value

    return apply_impl


def _scanned(plain: Callable[..., Any]) -> Callable[..., Any]:
    def apply_impl(self: Any, given: Any) -> Any:
        if any(x.dtype.scalar == BF16 for x in given):  # the fast paths, chosen by combine_fn, use the bits
            self.combine_fn = SimpleNamespace(fn=self.combine_fn.fn)
        return plain(self, given)

    return apply_impl


def patch() -> None:
    """Replace the interpreter's operations on bfloat16."""
    builder = interpreter.InterpreterBuilder
    for names, compares in ((ROUNDED, False), (COMPARED, True)):
        for name in (f"create_{name}" for name in names):
            setattr(builder, name, _through_float32(getattr(builder, name), compares))
    wrappers = {
        "cast_impl": _cast,
        "create_fp_to_fp": _cast_rounding,
        "create_dot": _dot,
        "create_atomic_rmw": _atomic,
        "create_tensor_pointer_load": _padded,
        "create_descriptor_load": _padded,
    }
    for name, wrapper in wrappers.items():
        setattr(builder, name, wrapper(getattr(builder, name)))
    builder.get_bf16 = lambda self, value: Handle(narrow([value]), BF16)
    for operations, wrapper in ((interpreter.ReduceOps, _reduced), (interpreter.ScanOps, _scanned)):
        operations.apply_impl = wrapper(operations.apply_impl)
