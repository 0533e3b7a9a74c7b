"""Faster equivalents of what Triton's front end does most often while it interprets: types, shapes, tensors.

Triton makes each block type and each shape anew, checks that its sizes are powers of two, and builds a table
of NumPy's dtypes for each value. The results depend on a few small arguments alone, and are kept here.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from triton import language
from triton.language import core
from triton.runtime import interpreter

Sizes = tuple[Any, ...]
_SCALAR: Sizes = ()
_ACCEPTED: dict[Sizes, tuple[Any, int]] = {}  # of block types: shape and number of elements
# Of tensors, by the id() of their type's shape: that shape, the tensor's, and its number of elements.
_OF_TENSORS: dict[int, tuple[Any, Any, Any]] = {}


def _sizes(shape: Any) -> Sizes:
    return tuple([size.value if isinstance(size, core.constexpr) else size for size in shape])


def _block_type(plain: Any) -> Any:
    """Wrap the initialiser of block types: a shape is checked once, and all types share it."""

    @functools.wraps(plain)
    def __init__(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = _sizes(shape) if isinstance(shape, list | core.tuple) else ()
        plainly = all(type(size) is int for size in sizes)  # True and 4.0 equal integers
        known = _ACCEPTED.get(sizes) if plainly else None
        if known is not None:
            self.element_ty = element_ty
            self.shape, self.numel = known
            return
        plain(self, element_ty, shape)
        if plainly:
            _ACCEPTED[sizes] = self.shape, self.numel

    return __init__


def _tensor(self: Any, handle: Any, type: Any) -> None:
    """Replace the initialiser of tensors: tensors whose types share a shape share one too."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    sizes = type.shape if type.is_block() else _SCALAR
    known = _OF_TENSORS.get(id(sizes))
    if known is None:
        shape = core.tuple([core.constexpr(size) for size in sizes])
        known = _OF_TENSORS[id(sizes)] = sizes, shape, core.constexpr(math.prod(sizes))
    self.shape, self.numel = known[1:]


def _dtype(plain: Any) -> Any:
    """Wrap the choice of NumPy's dtype for a type."""
    kept: dict[str, Any] = {}

    @functools.wraps(plain)
    def _get_np_dtype(type: Any) -> Any:
        scalar = type.scalar
        if isinstance(scalar, language.pointer_type):
            return plain(scalar)
        if scalar.name not in kept:
            kept[scalar.name] = plain(scalar)
        return kept[scalar.name]

    return _get_np_dtype


def patch() -> None:
    """Patch Triton's front end for the rest of the process."""
    core.block_type.__init__ = _block_type(core.block_type.__init__)
    core.block_type.name = property(
        lambda self: f"<{self.shape}, {self.element_ty}>", lambda self, name: None
    )
    core.tensor.__init__ = _tensor
    interpreter._get_np_dtype = _dtype(interpreter._get_np_dtype)
