"""Backgrounds: how a recipe fills a tensor. One background, and a handful of edits on top of it.

Every background is a frozen dataclass. Its repr is Python that builds an equal one. `fill(shape)` returns
float64. The last axis is time; the index of the flattened axes before it is the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmat.strategies.recipes.recipe import Recipe

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]

inf = math.inf  # the repr of a recipe has the names inf and nan
nan = math.nan


class Background(Recipe):
    """The values of a tensor before any edit."""

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
    """start + head_step * head + step * time: with a head_step, all heads differ."""

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
    """values[(time + head) mod len(values)]: a short pattern, repeated in time and shifted by head."""

    values: tuple[float, ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        heads = np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1)
        where = (heads + np.arange(shape[-1])) % len(self.values)
        kept: Array = np.asarray(self.values, dtype=np.float64)[where]
        return kept


@dataclass(frozen=True, repr=False)
class Palette(Background):
    """Each element is one of `values`, drawn with its own seed."""

    seed: int
    values: tuple[float, ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        where = np.random.default_rng(self.seed).integers(len(self.values), size=shape)
        return np.asarray(self.values, dtype=np.float64)[where]


@dataclass(frozen=True, repr=False)
class Normal(Background):
    """mean + scale * standard normal, drawn with its own seed."""

    seed: int
    scale: float = 1.0
    mean: float = 0.0

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.mean + self.scale * np.random.default_rng(self.seed).standard_normal(shape)


@dataclass(frozen=True, repr=False)
class Diagonal(Background):
    """`value` where t - s = offset, zero elsewhere. (t, s) are the last two axes of a cotangent."""

    value: float
    offset: int = 0

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.value * np.broadcast_to(np.eye(shape[-2], shape[-1], -self.offset), shape)


@dataclass(frozen=True, repr=False)
class Row(Background):
    """`value` in row t, zero elsewhere. A negative t counts from the end."""

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
    """The sum of two backgrounds, such as a heavy diagonal on noise."""

    first: Background
    second: Background

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return self.first.fill(shape) + self.second.fill(shape)


@dataclass(frozen=True, repr=False)
class Within(Background):
    """Another background, clipped to [low, high]."""

    background: Background
    low: float
    high: float

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        return np.asarray(np.clip(self.background.fill(shape), self.low, self.high))


@dataclass(frozen=True, repr=False)
class Edited(Background):
    """A background with some elements overwritten. edits: ((index, value), ...); the last edit wins."""

    background: Background
    edits: tuple[tuple[tuple[int, ...], float], ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape."""
        filled = np.array(self.background.fill(shape))
        for index, value in self.edits:
            filled[index] = value
        return filled


@dataclass(frozen=True, repr=False)
class Heads(Background):
    """A background for each head: head n of the flattened axes has backgrounds[n mod their number].

    Each fills a tensor of one batch and one head.
    """

    backgrounds: tuple[Background, ...]

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape, (B, NH, ..)."""
        B, NH, *rest = shape
        each = [one.fill((1, 1, *rest))[0, 0] for one in self.backgrounds[: B * NH]]
        return np.asarray([each[n % len(each)] for n in range(B * NH)], dtype=np.float64).reshape(shape)

    def of(self, heads: Sequence[int]) -> Background:
        """Return the background of these heads alone. The first heads keep their turns."""
        if list(heads) == list(range(len(heads))) and len(heads) > 1:
            return Heads(self.backgrounds[: len(heads)])
        kept = tuple(self.backgrounds[n % len(self.backgrounds)] for n in heads)
        return Heads(kept) if len(kept) > 1 else kept[0] if kept else self


@dataclass(frozen=True, repr=False)
class Stored(Background):
    """A tensor of a safetensors file: values that no recipe describes, such as those of a training step.

    file: the path. If the tensor is longer than needed, or has more heads, its beginning is used.
    """

    file: str
    name: str

    def fill(self, shape: Shape) -> Array:
        """Return a float64 array of this shape. ValueError if the tensor is missing or too small."""
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
    if not -largest <= filled.min(initial=0.0) <= filled.max(initial=0.0) <= largest:  # or NaN
        # A float64 just above the dtype's largest number rounds to that number, because it is clipped first.
        filled = np.where(np.isfinite(filled), np.clip(filled, -largest, largest), filled)
    return torch.from_numpy(np.ascontiguousarray(filled)).to(dtype, copy=True)
