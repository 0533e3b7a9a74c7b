"""An address sanitizer: every load and store of a kernel must hit the tensor that its pointer came from.

A pointer's type records that tensor through all pointer arithmetic, so an overrun into another tensor is
found too. A pointer made from an integer is not checked. The check precedes the access, which might end the
process. Integer masks are made boolean, because the interpreter would use their bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton
from triton import language
from triton.runtime import interpreter

from dmat.testing.interpret.launch import Reported

OURS = (str(Path(triton.__file__).parent), str(Path(__file__).parent))


class OutOfBounds(Reported):
    """A kernel was about to load or store outside its tensors."""


@dataclass(frozen=True)
class Memory:
    """The address range of a tensor argument, from its first element to the end of its last element."""

    name: str
    begin: int
    end: int


class Pointer(language.pointer_type):  # type: ignore[misc]
    """The type of a pointer, with the memories that the pointer may point into."""

    def __init__(self, plain: Any, memories: frozenset[Memory]) -> None:
        """Copy the plain type, and record the memories."""
        super().__init__(plain.element_ty, plain.address_space, plain.const)
        self.memories = memories


@dataclass
class Launch:
    """The running kernel, and the names of its tensor arguments by id()."""

    kernel: str = ""
    names: dict[int, str] | None = None


RUNNING = Launch()


def _memory(tensor: Any) -> Memory:
    name = (RUNNING.names or {}).get(id(tensor), "a tensor")
    tensor = interpreter._unwrap_tensor(tensor)
    begin = tensor.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return Memory(name, begin, begin + (reach + 1 if tensor.numel() else 0) * tensor.element_size())


def _named(name: str, argument: Any) -> Iterator[tuple[int, str]]:
    """Yield (id, name) of each tensor in an argument."""
    if isinstance(argument, tuple):
        for number, part in enumerate(argument):
            yield from _named(f"{name}[{number}]", part)
    elif isinstance(argument, interpreter.TensorDescriptor):
        yield from _named(name, argument.base)
    elif hasattr(argument, "data_ptr"):
        yield id(argument), name


def _noted(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the conversion of arguments: record the kernel and the names of its tensors in RUNNING."""

    def _init_args_hst(self: Any, args_dev: Any, kwargs: Any) -> Any:
        arguments, keywords = plain(self, args_dev, kwargs)
        pairs = [*zip(self.arg_names, arguments, strict=False), *keywords.items()]
        RUNNING.kernel, RUNNING.names = self.fn.__name__, dict(n for pair in pairs for n in _named(*pair))
        return arguments, keywords

    return _init_args_hst


def _marked(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the conversion of one argument: the pointer to a tensor records the tensor's memory."""

    def _implicit_cvt(argument: Any) -> Any:
        made = plain(argument)
        if hasattr(argument, "data_ptr"):
            made.handle.dtype = Pointer(made.handle.dtype, frozenset({_memory(argument)}))
        return made

    return _implicit_cvt


def _recast(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the bitcast: a pointer cast to another type keeps its memories."""

    def create_bitcast(self: Any, src: Any, dst_type: Any) -> Any:
        found = plain(self, src, dst_type)
        if isinstance(src.dtype, Pointer) and isinstance(found.dtype, language.pointer_type):
            found.dtype = Pointer(found.dtype, src.dtype.memories)
        return found

    return create_bitcast


def _merged(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an operation on two pointers: the result may point into the memory of either."""

    def operation(self: Any, *arguments: Any) -> Any:
        found = plain(self, *arguments)
        both = [x.dtype for x in arguments if isinstance(x.dtype, language.pointer_type)]
        if both:
            known = all(isinstance(t, Pointer) for t in both)
            memories = frozenset().union(*(t.memories for t in both)) if known else None
            found.dtype = (
                Pointer(both[0], memories) if memories else language.pointer_type(both[0].element_ty)
            )
        return found

    return operation


def _boolean(mask: Any) -> Any:
    """Return a mask as a handle of booleans (int1)."""
    data = mask if isinstance(mask, np.ndarray) else np.asarray(mask.data)
    return interpreter.TensorHandle(data if data.dtype == bool else data != 0, language.int1)


def require_inside(pointers: Any, mask: Any, verb: str) -> None:
    """Raise OutOfBounds if an unmasked address lies outside all memories that the pointers may point into."""
    if not isinstance(pointers.dtype, Pointer):
        return
    addresses = np.asarray(pointers.data)
    if mask is not None:
        addresses = addresses[np.broadcast_to(mask.data, addresses.shape)]
    if not addresses.size:
        return
    size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    memories = sorted(pointers.dtype.memories, key=lambda memory: memory.name)
    outside = np.ones(addresses.shape, dtype=bool)
    for memory in memories:
        outside &= (addresses < memory.begin) | (addresses > memory.end - size)
    if outside.any():
        raise OutOfBounds(_message(addresses[outside].astype(np.int64), addresses.size, size, memories, verb))


def _message(outside: Any, of: int, size: int, memories: list[Memory], verb: str) -> str:
    """Return the message: kernel, line, verb, number of addresses outside, tensors, and how far outside."""
    names = " and ".join(f"{memory.name} ({memory.end - memory.begin} bytes)" for memory in memories)
    past = int(outside.max()) + size - max(memory.end for memory in memories)
    before = min(memory.begin for memory in memories) - int(outside.min())
    far = f"{past} bytes past its end" if past > 0 else f"{before} bytes before its beginning"
    where = f"{verb} of {outside.size} of {of} addresses outside of {names}, as far as {far}"
    return f"kernel {RUNNING.kernel}, {_line()}: {where}"


def _line() -> str:
    """Return the line of the kernel that is running, as file:line."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def patch() -> None:
    """Check every access from now on."""
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas

    def create_masked_load(self: Any, ptrs: Any, mask: Any, *others: Any, **keywords: Any) -> Any:
        mask = _boolean(mask)
        require_inside(ptrs, mask, "load")
        return load(self, ptrs, mask, *others, **keywords)

    def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *others: Any) -> Any:
        mask = _boolean(mask)
        require_inside(ptrs, mask, "store")
        return store(self, ptrs, value, mask, *others)

    def create_atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *others: Any) -> Any:
        mask = _boolean(mask)
        require_inside(ptr, mask, "atomic update")
        return rmw(self, op, ptr, val, mask, *others)

    def create_atomic_cas(self: Any, ptr: Any, *others: Any) -> Any:
        require_inside(ptr, None, "atomic exchange")
        return cas(self, ptr, *others)

    for method in (create_masked_load, create_masked_store, create_atomic_rmw, create_atomic_cas):
        setattr(builder, method.__name__, method)
    builder.create_bitcast = _recast(builder.create_bitcast)
    for name in ("create_select", "create_cat", "create_join"):
        setattr(builder, name, _merged(getattr(builder, name)))
    interpreter._implicit_cvt = _marked(interpreter._implicit_cvt)
    executor = interpreter.GridExecutor
    executor._init_args_hst = _noted(executor._init_args_hst)
