"""How a recipe fills a tensor: one background, and a handful of edits on top of it.

Every background is a frozen dataclass whose repr is Python that builds it again. `fill(shape)` gives
float64; the last axis is time, all axes before it are flattened to "which head".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmat.strategies.recipes.recipe import Recipe

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]

inf = math.inf  # so that the repr of a recipe evaluates where this module's names are imported
nan = math.nan


class Background(Recipe):
    """What stands in a tensor before any edit."""

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Constant(Background):
    """The same value everywhere."""

    value: float

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return np.full(shape, self.value, dtype=np.float64)


@dataclass(frozen=True, repr=False)
class Ramp(Background):
    """start + head_step * head + step * time: every head differs from every other."""

    start: float
    step: float = 0.0
    head_step: float = 0.0

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        heads = np.arange(math.prod(shape[:-1]), dtype=np.float64).reshape(*shape[:-1], 1)
        time = np.arange(shape[-1], dtype=np.float64)
        ramp: Array = np.asarray(self.start + self.head_step * heads + self.step * time)
        return ramp


@dataclass(frozen=True, repr=False)
class Cycle(Background):
    """values[(time + head) mod their number]: a short pattern, repeated and shifted by head."""

    values: tuple[float, ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        heads = np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1)
        where = (heads + np.arange(shape[-1])) % len(self.values)
        kept: Array = np.asarray(self.values, dtype=np.float64)[where]
        return kept


@dataclass(frozen=True, repr=False)
class Palette(Background):
    """Each place draws one of `values`, by a seed of its own."""

    seed: int
    values: tuple[float, ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        where = np.random.default_rng(self.seed).integers(len(self.values), size=shape)
        return np.asarray(self.values, dtype=np.float64)[where]


@dataclass(frozen=True, repr=False)
class Normal(Background):
    """mean + scale * standard normal, by a seed of its own."""

    seed: int
    scale: float = 1.0
    mean: float = 0.0

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.mean + self.scale * np.random.default_rng(self.seed).standard_normal(shape)


@dataclass(frozen=True, repr=False)
class Diagonal(Background):
    """`value` where t - s = offset, zero elsewhere: for the last two axes of a cotangent."""

    value: float
    offset: int = 0

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.value * np.broadcast_to(np.eye(shape[-2], shape[-1], -self.offset), shape)


@dataclass(frozen=True, repr=False)
class Row(Background):
    """`value` in the row t (counted from the end when negative), zero elsewhere."""

    value: float
    t: int = -1

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        filled = np.zeros(shape)
        if -shape[-2] <= self.t < shape[-2]:
            filled[..., self.t, :] = self.value
        return filled


@dataclass(frozen=True, repr=False)
class Sum(Background):
    """Two backgrounds added, as in a heavy diagonal on noise."""

    first: Background
    second: Background

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.first.fill(shape) + self.second.fill(shape)


@dataclass(frozen=True, repr=False)
class Within(Background):
    """Another background, what lies below `low` or above `high` moved there."""

    background: Background
    low: float
    high: float

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return np.asarray(np.clip(self.background.fill(shape), self.low, self.high))


@dataclass(frozen=True, repr=False)
class Edited(Background):
    """A background with some places overwritten: ((index, value), ...), a later edit winning."""

    background: Background
    edits: tuple[tuple[tuple[int, ...], float], ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        filled = np.array(self.background.fill(shape))
        for index, value in self.edits:
            filled[index] = value
        return filled


@dataclass(frozen=True, repr=False)
class Stored(Background):
    """What a safetensors file holds under this name: values that no recipe tells, as of a training step.

    file: its path. A longer tensor, or one of more heads, is used from its beginning.
    """

    file: str
    name: str

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape. ValueError where the file has no such values."""
        import torch
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as tensors:
            if self.name not in tensors.keys():  # noqa: SIM118  # it is no dictionary
                raise ValueError(f"{self.file} holds no tensor {self.name!r}")
            stored = tensors.get_tensor(self.name)
        if stored.dim() != len(shape) or any(n < m for n, m in zip(stored.shape, shape, strict=True)):
            found = tuple(stored.shape)
            raise ValueError(f"tensor {self.name!r} of {self.file} is {found}; expected at least {shape}")
        return np.asarray(stored[tuple(slice(n) for n in shape)].to(torch.float64).numpy())


def rounded(filled: Array, dtype: Any) -> Any:
    """Round float64 values to a torch dtype, half to even; finite values stay finite."""
    import torch

    largest = torch.finfo(dtype).max
    clipped = np.where(np.isfinite(filled), np.clip(filled, -largest, largest), filled)
    # A float64 just above the largest bfloat16 still rounds to it, for it was clipped to it first.
    return torch.from_numpy(np.ascontiguousarray(clipped)).to(dtype)
