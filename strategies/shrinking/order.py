"""Which of two cases is the smaller: the shorter, then the one of fewer heads, then the plainer."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Edited,
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
SEEDED = 24  # as much as twelve places told one by one


def plainest(part: object) -> float:
    """Return the value that a recipe of this kind holds where any would do: its default."""
    return 1.0 if isinstance(part, Cotangent) else 0.0


def digits(value: float) -> int:
    """Count the significant decimal digits of a finite number."""
    return len(repr(abs(value)).split("e")[0].replace(".", "").strip("0"))


def value_size(value: float, least: float = 0.0) -> float:
    """Order values: `least`, small integers, infinities, NaN, then others by their digits."""
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
    """Count what there is to understand in a background; nothing in a constant of `least`."""
    match background:
        case Constant(value):
            return 0.0 if value == least else 1.0
        case Edited(inner, edits):
            return structure(inner, least) + 2 * len(edits)
        case Cycle(values):
            return 2.0 * len(values)
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
    """Return (part, field, background) for each there is in a case."""
    found = []
    for name, part in case.items():
        for field in fields(part) if isinstance(part, Recipe) else ():  # type: ignore[arg-type]
            value = getattr(part, field.name)
            if isinstance(value, Background):
                found.append((name, field.name, value))
    return found


def layouts(case: Case) -> list[tuple[str, str, str]]:
    """Return (part, field, layout) for each there is in a case."""
    found = []
    for name, part in case.items():
        for field in fields(part) if isinstance(part, Recipe) else ():  # type: ignore[arg-type]
            if field.name.endswith("layout"):
                found.append((name, field.name, getattr(part, field.name)))
    return found


def numbers(recipe: Any) -> list[float]:
    """Return every number in a recipe, its shape left out."""
    if isinstance(recipe, (int, float)):
        return [float(recipe)]
    if isinstance(recipe, tuple):
        return [number for part in recipe for number in numbers(part)]
    if isinstance(recipe, Recipe):
        names = [field.name for field in fields(recipe) if field.name != "shape"]  # type: ignore[arg-type]
        return [number for name in names for number in numbers(getattr(recipe, name))]
    return []


def size(case: Case) -> Size:
    """Return what orders cases, the smallest first; lengths of zero come after all others."""
    B, NH, S = max((part.shape for part in case.values() if isinstance(part, Gates)), default=(1, 1, 1))
    strides = sum(layout != "contiguous" for _, _, layout in layouts(case))
    parts = sum(structure(b, plainest(case[name])) for name, _, b in backgrounds(case))
    places = sum(sum(numbers(part)) for part in case.values() if not isinstance(part, Recipe))
    values = sum(value_size(x, plainest(part)) for part in case.values() for x in numbers(part))
    shape = (float((B, NH, S).count(0)), S, max(B, 1) * max(NH, 1), B)
    return (*shape, strides, parts, places, values, sum(len(repr(part)) for part in case.values()))
