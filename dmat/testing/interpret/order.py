"""Run the programs of a launch backwards: the last one first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triton.runtime import interpreter


@contextmanager
def backwards() -> Iterator[None]:
    """Let the programs of each launch in this context run in the opposite order."""
    builder = interpreter.interpreter_builder
    grid, place = builder.set_grid_dim, builder.set_grid_idx
    sizes = [1, 1, 1]

    def set_grid_dim(*dimensions: int) -> None:
        sizes[:] = dimensions
        grid(*dimensions)

    def set_grid_idx(*index: int) -> None:
        place(*(size - 1 - at for size, at in zip(sizes, index, strict=True)))

    builder.set_grid_dim, builder.set_grid_idx = set_grid_dim, set_grid_idx
    try:
        yield
    finally:
        builder.set_grid_dim, builder.set_grid_idx = grid, place
