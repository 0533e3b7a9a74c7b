"""Memory layouts of the same values: strided, transposed, expanded, offset, as users' tensors have them.

A layout is a function that takes a contiguous tensor and returns a view of equal values (an expanded layout
repeats the first slice). The rest of the view's storage is a red zone, filled with the poison `poison`
(default NaN), so that a stray read changes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dmat.strategies.choose import Draw, choose

Layout = Callable[[Tensor, float], Tensor]


def _window(dense: Tensor, poison: float, buffer: list[int], *place: slice) -> Tensor:
    """Copy `dense` into a slice of a larger buffer of `poison`, and return the slice."""
    view = torch.full(buffer, poison, dtype=dense.dtype, device=dense.device)[place]
    view.copy_(dense)
    return view


def _copy(view: Tensor) -> Tensor:
    """Return a contiguous copy in new memory. contiguous() might return the view itself."""
    return view.clone(memory_format=torch.contiguous_format)


GUARD = 64  # elements of red zone on either side: more than a vector load, and a multiple of its alignment


def _contiguous(dense: Tensor, poison: float) -> Tensor:
    """Lie between two red zones, like a slice of an allocator's block."""
    size = dense.numel()
    return _window(dense.reshape(-1), poison, [size + 2 * GUARD], slice(GUARD, GUARD + size)).view(
        dense.shape
    )


def _transposed(dense: Tensor, poison: float) -> Tensor:
    """Swap heads and time in memory, as a projection to (B, S, NH) leaves them."""
    return _copy(dense.transpose(1, 2)).transpose(1, 2)


def _strided(dense: Tensor, poison: float) -> Tensor:
    B, NH, S, last = dense.shape
    return _window(dense, poison, [B, NH, 2 * S, last], slice(None), slice(None), slice(None, None, 2))


def _offset(dense: Tensor, poison: float) -> Tensor:
    """Start in the middle of a larger tensor, on an odd element, with gaps between the heads."""
    B, NH, S, last = dense.shape
    return _window(dense, poison, [B, NH + 1, S + 4, last], slice(None), slice(1, None), slice(1, S + 1))


def _interleaved(dense: Tensor, poison: float) -> Tensor:
    """Lie in every second element of the last axis, as when one projection computes both gates."""
    *front, last = dense.shape
    everything = [slice(None)] * len(front)
    return _window(dense, poison, [*front, 2 * last], *everything, slice(1, None, 2))


def _expanded(*axes: int) -> Layout:
    def layout(dense: Tensor, poison: float) -> Tensor:
        first = dense
        for axis in axes:
            first = first.narrow(axis, 0, min(1, dense.shape[axis]))
        return _copy(first).expand(dense.shape)

    return layout


def _matrix_transposed(dense: Tensor, poison: float) -> Tensor:
    """Swap rows and columns in memory, like a cotangent that came from a transposed product."""
    return _copy(dense.transpose(2, 3)).transpose(2, 3)


SAME_VALUES: dict[str, Layout] = {
    "contiguous": _contiguous,
    "transposed": _transposed,
    "strided": _strided,
    "offset": _offset,
    "interleaved": _interleaved,
}


PER_HEAD: dict[str, Layout] = {  # these repeat whole heads; within a head nothing is repeated
    "expanded over batches": _expanded(0),
    "expanded over heads": _expanded(1),
}


PER_ROW: dict[str, Layout] = {  # of a cotangent: entries above the diagonal repeat entries below it
    "expanded over rows": _expanded(2),
    "expanded over all": _expanded(0, 1, 2, 3),
}


GATE_LAYOUTS: dict[str, Layout] = {
    **SAME_VALUES,
    **PER_HEAD,
    "expanded over time": _expanded(2),
}


COTANGENT_LAYOUTS: dict[str, Layout] = {
    **SAME_VALUES,
    "matrix transposed": _matrix_transposed,
    **PER_HEAD,
    **PER_ROW,
}


_LAYOUTS = GATE_LAYOUTS | COTANGENT_LAYOUTS


def lay_out(dense: Tensor, layout: str, poison: float = float("nan")) -> Tensor:
    """Return `dense` (4 axes) in the named layout of GATE_LAYOUTS or COTANGENT_LAYOUTS."""
    if layout not in _LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {sorted(_LAYOUTS)}")
    return _LAYOUTS[layout](dense, poison)


def draw_layout(draw: Draw, names: Sequence[str]) -> str:
    """Draw "contiguous" half of the time, else one of the names."""
    return choose(draw, ("contiguous",) * len(names) + tuple(names))
