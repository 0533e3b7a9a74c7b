"""The order of cases by size: shorter first, then fewer heads, then simpler. Shrinking minimises it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Edited,
    Heads,
    Normal,
    Palette,
    Ramp,
    Stored,
    Sum,
    Within,
)
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case, Recipe

Size = tuple[float, ...]
SEEDED = 24  # as much as twelve edits


def plainest(part: object) -> float:
    """Return the default value of this kind of recipe, the simplest: 1 for a cotangent, else 0."""
    return 1.0 if isinstance(part, Cotangent) else 0.0


def digits(value: float) -> int:
    """Count the significant decimal digits of a finite number."""
    return len(repr(abs(value)).split("e")[0].replace(".", "").strip("0"))


def value_size(value: float, least: float = 0.0) -> float:
    """Return the sort key of a value: `least`, then small integers, infinities, NaN, others by digits."""
    if value == least:
        return 0.0
    if math.isnan(value):
        return 4.0
    if math.isinf(value):
        return 3.0 + 0.5 * (value < 0)
    negative = (value < 0) / 1e6
    if value == int(value) and abs(value) <= 1e4:
        return 1.0 + abs(value) / 1e4 + negative
    return 5.0 + digits(value) / 100 + abs(math.log10(abs(value))) / 1e5 + negative


def structure(background: Background, least: float = 0.0) -> float:
    """Return how complex a background is for a reader; 0 for a constant of `least`."""
    match background:
        case Constant(value):
            return 0.0 if value == least else 1.0
        case Edited(inner, edits):
            return structure(inner, least) + 2 * len(edits)
        case Cycle(values):
            return 2.0 * len(values)
        case Heads(several):
            return 4.0 + sum(structure(one, least) for one in several)
        case Sum(first, second):
            return 4.0 + structure(first) + structure(second)
        case Ramp(_, _, head_step):
            return 3.0 + (head_step != 0)
        case Within(inner):
            return 1.0 + structure(inner)
        case Palette() | Normal() | Stored():
            return SEEDED
    return 3.0


def backgrounds(case: Case) -> list[tuple[str, str, Background]]:
    """Return (name of the part, name of the field, background) for each background of a case."""
    found = []
    for name, part in case.items():
        for field in fields(part) if isinstance(part, Recipe) else ():  # type: ignore[arg-type]
            value = getattr(part, field.name)
            if isinstance(value, Background):
                found.append((name, field.name, value))
    return found


def layouts(case: Case) -> list[tuple[str, str, str]]:
    """Return (name of the part, name of the field, layout) for each layout of a case."""
    found = []
    for name, part in case.items():
        for field in fields(part) if isinstance(part, Recipe) else ():  # type: ignore[arg-type]
            if field.name.endswith("layout"):
                found.append((name, field.name, getattr(part, field.name)))
    return found


def numbers(recipe: Any) -> list[float]:
    """Return every number in a recipe, except its shape."""
    if isinstance(recipe, (int, float)):
        return [float(recipe)]
    if isinstance(recipe, tuple):
        return [number for part in recipe for number in numbers(part)]
    if isinstance(recipe, Recipe):
        names = [field.name for field in fields(recipe) if field.name != "shape"]  # type: ignore[arg-type]
        return [number for name in names for number in numbers(getattr(recipe, name))]
    return []


def size(case: Case) -> Size:
    """Return the sort key of a case, smallest first. Shapes with a zero come after all others."""
    B, NH, S = max((part.shape for part in case.values() if isinstance(part, Gates)), default=(1, 1, 1))
    strides = sum(layout != "contiguous" for _, _, layout in layouts(case))
    parts = sum(structure(b, plainest(case[name])) for name, _, b in backgrounds(case))
    places = sum(sum(numbers(part)) for part in case.values() if not isinstance(part, Recipe))
    values = sum(value_size(x, plainest(part)) for part in case.values() for x in numbers(part))
    shape = (float((B, NH, S).count(0)), S, max(B, 1) * max(NH, 1), B)
    return (*shape, strides, parts, places, values, sum(len(repr(part)) for part in case.values()))
