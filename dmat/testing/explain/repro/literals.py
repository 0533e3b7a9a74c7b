"""Write a tensor as torch code that rebuilds it: values, strides, and the red zones around a view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_NUMBERS = 2000  # elements listed in a script; a larger tensor is stored beside the script
MOST_EDITS = 8
SMALL = 64  # up to this many elements, listing is preferred to edits
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size in bytes

Store = Callable[[Tensor], str]  # stores a tensor beside the script, and returns an expression that reads it
Edit = tuple[tuple[int, ...], str]  # an index, and the value there as code


def number(value: float) -> str:
    """Return Python code of this float. The script defines the names `inf` and `nan`."""
    return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else f"{value:.0f}"


def listed(numbers: Sequence[int]) -> str:
    """Return a shape or an index as comma-separated code, without brackets."""
    return ", ".join(map(str, numbers))


def short(value: float, dtype: torch.dtype) -> str:
    """Return a short decimal that rounds to this value in the dtype: of 3, 5 or 9 digits, else repr."""
    if not math.isfinite(value):
        return number(value)
    for digits in (3, 5, 9):
        text = repr(float(f"{value:.{digits}g}"))
        if torch.tensor(float(text), dtype=dtype).item() == value:
            return text
    return repr(value)


def memory_of(tensor: Tensor) -> Tensor:
    """Return the whole storage of a tensor as a 1-D tensor."""
    with torch.no_grad():
        return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def bits(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor's elements as integers: NaN equals the same NaN, -0 differs from 0."""
    return tensor.detach().contiguous().view(BITS[tensor.element_size()])


def _options(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    return dtype if tensor.device.type == "cpu" else f"{dtype}, device={tensor.device.type!r}"


def _constant(value: Tensor, shape: tuple[int, ...]) -> str:
    """Return an expression for a tensor of this shape with one value everywhere."""
    x = value.item()
    if x == 0 and math.copysign(1, x) > 0:
        return f"torch.zeros({listed(shape)}{_options(value)})"
    if x == 1:
        return f"torch.ones({listed(shape)}{_options(value)})"
    return f"torch.full({shape}, {short(x, value.dtype)}{_options(value)})"


def _lower(dense: Tensor) -> str | None:
    """Return an expression for one value at t >= s and zeros above, the usual cotangent, or None."""
    if dense.dim() < 2 or dense.shape[-1] != dense.shape[-2]:
        return None
    value = dense[(0,) * dense.dim()]
    same = torch.equal(bits(dense), bits(torch.full_like(dense, value.item()).tril()))
    return f"{_constant(value, tuple(dense.shape))}.tril()" if same else None


def values(tensor: Tensor, store: Store, most_edits: int = 0) -> tuple[str, list[Edit]]:
    """Return an expression for a contiguous tensor with these values, up to a few edits, and the edits."""
    dense = tensor.detach().contiguous()
    if dense.numel() == 0:
        return _constant(torch.zeros((), dtype=dense.dtype, device=dense.device), tuple(dense.shape)), []
    flat = dense.reshape(-1)
    common = torch.mode(bits(flat).cpu())[0]
    others = torch.nonzero(bits(dense).cpu() != common).tolist()
    if len(others) <= (most_edits if dense.numel() > SMALL else min(most_edits, dense.numel() // 6)):
        background = flat[int(torch.nonzero(bits(flat).cpu() == common)[0])]
        indices = [tuple(index) for index in others]
        edits = [(index, short(dense[index].item(), dense.dtype)) for index in indices]
        return _constant(background, tuple(dense.shape)), edits
    if (lower := _lower(dense)) is not None:
        return lower, []
    if dense.numel() > MOST_NUMBERS:
        return store(dense), []
    numbers = ", ".join(short(x, dense.dtype) for x in flat.tolist())
    return f"torch.tensor([{numbers}]{_options(dense)}).view({listed(dense.shape)})", []


def written(name: str, tensor: Tensor, store: Store) -> list[str]:
    """Return lines that define `name` as this tensor, with the same strides and the same surrounding memory.

    The lines may call `guarded` and `placed` of dmat.testing.kernel.runtime.
    """
    own = tensor.detach()
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        own = own.narrow(axis, 0, 1) if size > 1 and stride == 0 else own
    expanded = own.shape != tensor.shape
    memory = memory_of(tensor)
    expand = f".expand({listed(tensor.shape)})" if expanded else ""
    expression, edits = values(own, store, 0 if expanded else MOST_EDITS)
    after = [f"{name}[{listed(index)}] = {value}" for index, value in edits]
    # is_contiguous() ignores the stride of an axis of size 1, but a kernel may use it.
    canonical = expanded or not own.numel() or own.stride() == torch.empty(own.shape, device="meta").stride()
    plain = canonical and own.is_contiguous()
    if plain and own.numel() == len(memory):
        return [f"{name} = {expression}{expand}", *after]
    poison = _around(own, memory)
    if poison is not None and plain and len(memory) == own.numel() + 2 * own.storage_offset():
        guards = f"{own.storage_offset()}, {poison}"
        return [f"{name} = guarded({expression}, {guards}){expand}", *after]
    if poison is not None:
        index = f"{len(memory)}, {tuple(own.stride())}, {own.storage_offset()}, {poison}"
        return [f"{name} = placed({expression}, {index}){expand}", *after]
    whole, edits = values(memory, store, MOST_EDITS)
    lines = [f"memory = {whole}", *(f"memory[{index[0]}] = {value}" for index, value in edits)]
    view = f"memory.as_strided({tuple(tensor.shape)}, {tuple(tensor.stride())}, {tensor.storage_offset()})"
    return [*lines, f"{name} = {view}"]


def _around(own: Tensor, memory: Tensor) -> str | None:
    """Return the one value (the poison) of all memory outside this view; None if there are several."""
    outside = torch.ones(len(memory), dtype=torch.bool, device=memory.device)
    outside.as_strided(own.shape, own.stride(), own.storage_offset()).fill_(False)
    rest = memory[outside]
    if len(rest) and not bool((bits(rest) == bits(rest)[0]).all()):
        return None
    return short(rest[0].item(), rest.dtype) if len(rest) else "nan"
