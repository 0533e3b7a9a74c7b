"""Shrinking steps: cases that differ from a given case in one respect, the largest steps first.

A yielded case may lie outside the domain, or be no smaller: the caller asks cases/contains.py and order.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from dmat.strategies.recipes.backgrounds import Array, Background, Constant, Edited, Heads, Row, Shape
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.strategies.recipes.gates import UNIT, Gates
from dmat.strategies.recipes.layouts import PER_ROW
from dmat.strategies.recipes.recipe import Case, Recipe
from dmat.strategies.shrinking.order import backgrounds, layouts, plainest, value_size

Mask = npt.NDArray[np.bool_]
Axis = Sequence[int]  # the indices that are kept of an axis: batches, heads or times
Places = tuple[Axis, Axis, Axis]
GatesShape = tuple[int, int, int]

MOST_EDITS = 64  # with more edits, a case is no easier to read than one with a seed
SIZES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 96, 97, 128, 129)  # tiles, and one more
FEW = 8  # the most candidates of one sort: stretches of a sequence, values of a background


def with_field(case: Case, name: str, field: str, value: object) -> Case:
    """Return the case with one field of one part replaced."""
    return {**case, name: replace(case[name], **{field: value})}


# The values that a case has


def past(G: Array) -> Mask:
    """Return the mask t >= s of a cotangent, in its shape."""
    return np.broadcast_to(np.tri(G.shape[-1], dtype=bool), G.shape)


def as_built(cotangent: Cotangent, case: Case) -> Array:
    """Return G as `build` gives it for the case's gates, in float64."""
    return np.asarray(cotangent.build(case["gates"]).double().numpy())


def commonest(values: Array) -> list[float]:
    """Return the distinct values, the most frequent first; of equally frequent ones, the simplest first."""
    kinds, counts = np.unique(values, return_counts=True)
    order = sorted(range(len(kinds)), key=lambda n: (-counts[n], value_size(float(kinds[n]))))
    return [float(kinds[n]) for n in order]


def told(case: Case, name: str) -> list[float]:
    """Return at most FEW distinct values of a part, the most frequent first."""
    part = case[name]
    if isinstance(part, Gates):
        return commonest(np.concatenate([gate.ravel() for gate in part.values()]))[:FEW]
    G = as_built(part, case)
    return commonest(G[past(G)])[:FEW]


# Parts of a case


def fitted(background: Background, shape: Shape) -> Background:
    """Return the background without the edits whose index lies outside (B, NH, S)."""
    if isinstance(background, Heads):
        return Heads(tuple(fitted(one, (1, 1, shape[-1])) for one in background.backgrounds))
    if not isinstance(background, Edited):
        return background
    axes = (*shape, shape[-1])
    inside = [all(n < axis for n, axis in zip(index, axes, strict=False)) for index, _ in background.edits]
    return edited(
        background.background, [e for e, kept in zip(background.edits, inside, strict=True) if kept]
    )


def of_places(background: Background, old: GatesShape, places: Places) -> Background:
    """Return a background of gates of the old shape, restricted to these batches, heads and times."""
    b, h, times = places
    if isinstance(background, Heads):
        background = background.of([n * old[1] + m for n in b for m in h])
    return fitted(background, (len(b), len(h), len(times)))


def edited(background: Background, edits: Sequence[tuple[tuple[int, ...], float]]) -> Background:
    """Return the background with these edits, or the background itself if there are none."""
    return Edited(background, tuple(edits)) if edits else background


def spelled(values: Array, where: Mask) -> Background | None:
    """Return the values as a constant with edits: the most frequent value, and an edit for every other.

    Return None if that takes more than MOST_EDITS edits. where: the mask of the entries that matter.
    """
    if not where.any():
        return Constant(0.0)
    common = commonest(values[where])[0]
    other = where & ~((values == common) | (np.isnan(values) & np.isnan(common)))
    if np.count_nonzero(other) > MOST_EDITS:
        return None
    places = (tuple(int(n) for n in place) for place in np.argwhere(other))
    return edited(Constant(common), [(place, float(values[place])) for place in places])


def _position(place: int, kept: Axis, length: int) -> int:
    """Return the new index of `place` on an axis of this length of which only the indices `kept` stay."""
    before = sum(n < place for n in kept)
    return before if place == length else min(before, max(0, len(kept) - 1))  # a cut may equal the length


def _part(part: Any, case: Case, places: Places) -> Any:
    """Return a part restricted to these batches, heads and times.

    Gates and cotangents get their values as constants with edits. An index is moved to its new position.
    """
    old, (B, NH, S) = case["gates"].shape, (len(axis) for axis in places)
    if isinstance(part, Gates):
        everywhere = np.ones((B, NH, S), dtype=bool)
        igate, fgate = (spelled(gate[np.ix_(*places)], everywhere) for gate in part.values())
        igate, fgate = (
            igate or of_places(part.igate, old, places),
            fgate or of_places(part.fgate, old, places),
        )
        return replace(part, shape=(B, NH, S), igate=igate, fgate=fgate)
    if isinstance(part, Cotangent):
        G = as_built(part, case)[np.ix_(*places, places[-1])]
        values = spelled(G, past(G)) or of_places(part.values, old, places)
        return replace(part, values=values, layout="contiguous" if part.layout in PER_ROW else part.layout)
    if isinstance(part, int):
        return _position(part, places[-1], old[-1])
    if isinstance(part, tuple) and len(part) == 2:
        return tuple(_position(n, axis, length) for n, axis, length in zip(part, places, old, strict=False))
    return part


def taken(case: Case, *places: Axis) -> Case:
    """Return the case restricted to these batches, heads and times, its values as constants with edits."""
    b, h, times = places
    return {name: _part(part, case, (b, h, times)) for name, part in case.items()}


def shaped(case: Case, shape: GatesShape) -> Case:
    """Return the case with the same recipes in another shape, and every index moved into it."""
    old = case["gates"].shape
    kept = [range(min(axes)) for axes in zip(old, shape, strict=True)]
    smaller = dict(case)
    for name, part in case.items():
        if isinstance(part, Gates):
            smaller[name] = replace(part, shape=shape)
        elif not isinstance(part, Recipe):
            smaller[name] = _part(part, case, (kept[0], kept[1], kept[2]))
    for name, field, background in backgrounds(case):
        places = kept[0], kept[1], range(shape[-1])
        smaller = with_field(smaller, name, field, of_places(background, old, places))
    return smaller


# Steps


def fewer_times(case: Case, block: int) -> Iterator[Case]:
    """Cut the sequence after its beginning, or leave one stretch of it out.

    An empty case also gets the smallest shapes with a single zero. block: lengths are multiples of it.
    """
    B, NH, S = case["gates"].shape
    if 0 in (B, NH, S):
        yield from (shaped(case, shape) for shape in ((1, 1, 0), (0, 1, block), (1, 0, block)))
    blocks = S // block
    for length in dict.fromkeys((1, 2, 3, blocks // 2, blocks - blocks // 4, blocks - 1)):
        if 0 < length < blocks:
            yield shaped(case, (B, NH, length * block))
    stretch = blocks - 1
    while stretch > 0:
        for start in range(0, blocks - stretch + 1, max(1, stretch // 2, (blocks - stretch) // FEW)):
            left_out = range(start * block, (start + stretch) * block)
            yield taken(case, range(B), range(NH), [n for n in range(S) if n not in left_out])
        stretch //= 2


def other_seeds(case: Case, block: int) -> Iterator[Case]:
    """Draw other random q, k and v for fewer times and one head: the values of a seed depend on the shape."""
    S = case["gates"].shape[-1]
    if "qkv" in case and 0 < S // block <= FEW:
        for blocks in range(1, S // block + 1):
            short = shaped(case, (1, 1, blocks * block))
            for seed in range(FEW):
                yield with_field(short, "qkv", "seed", seed)


def smaller_sizes(case: Case, block: int) -> Iterator[Case]:
    """Make K or V of q, k, v smaller: those near the tiles of kernels, the smallest first.

    A long one-hot recipe has a column of v for each time: dense ones have as many at two blocks.
    """
    if "qkv" not in case:
        return
    S, qkv = case["gates"].shape[-1], case["qkv"]
    if (qkv.kind, qkv.V) == ("one-hot", 0) and S > FEW * block:
        dense = {"qkv": replace(qkv, kind="dense", seed=1, level=0)}
        short = shaped({**case, **dense}, (1, 1, 2 * block))
        yield from (with_field(short, "qkv", "V", V) for V in SIZES if V <= S)
    for name in ("K", "V"):
        for size in SIZES:
            if size < getattr(qkv, name):
                yield with_field(case, "qkv", name, size)


def single_heads(case: Case) -> Iterator[Case]:
    """Take each head alone, of a case whose heads have gates of their own regime. A bare shape has none."""
    if "gates" not in case:
        return
    B, NH, S = case["gates"].shape
    if any(isinstance(background, Heads) for background in (case["gates"].igate, case["gates"].fgate)):
        yield from (taken(case, [b], [h], range(S)) for b in range(B) for h in range(NH))


def fewer_heads(case: Case) -> Iterator[Case]:
    """Leave out batches and heads: keep the first few, one (b, h), one of an axis, all but one of an axis."""
    B, NH, S = case["gates"].shape
    for b, h in dict.fromkeys(((1, 1), (1, NH), (B, 1), (1, 2), (2, 1), (B, NH - 1), (B - 1, NH))):
        if 0 < b <= B and 0 < h <= NH and (b, h) != (B, NH):
            yield shaped(case, (b, h, S))
    for b, h in product(range(B), range(NH)):
        yield taken(case, [b], [h], range(S))
    for b in range(B):
        yield taken(case, [b], range(NH), range(S))
        yield taken(case, [n for n in range(B) if n != b], range(NH), range(S))
    for h in range(NH):
        yield taken(case, range(B), [h], range(S))
        yield taken(case, range(B), [n for n in range(NH) if n != h], range(S))


def plainer_layouts(case: Case) -> Iterator[Case]:
    """Make the layouts contiguous: all at once, then one by one."""
    found = [(name, field) for name, field, layout in layouts(case) if layout != "contiguous"]
    plain = case
    for name, field in found:
        plain = with_field(plain, name, field, "contiguous")
    yield plain
    for name, field in found:
        yield with_field(case, name, field, "contiguous")


def plainer_backgrounds(case: Case) -> Iterator[Case]:
    """Replace each background by a constant, by one row or one entry, or by its own values with edits."""
    B, NH, S = case["gates"].shape
    whole = taken(case, range(B), range(NH), range(S))
    for name, field, _ in backgrounds(case):
        constants = dict.fromkeys((plainest(case[name]), 1.0, -1.0, *told(case, name)))
        for value in constants:
            yield with_field(case, name, field, Constant(value))
        values = getattr(whole[name], field)
        if isinstance(case[name], Cotangent):
            for value in constants:
                yield with_field(case, name, field, Row(value))
            for edit in values.edits[:FEW] if isinstance(values, Edited) else ():
                yield with_field(case, name, field, Edited(Constant(0.0), (edit,)))
        yield with_field(case, name, field, values)


def fewer_edits(case: Case) -> Iterator[Case]:
    """Drop edits: all, halves, quarters, ..., single ones. Or replace the background under them."""
    for name, field, background in backgrounds(case):
        if not isinstance(background, Edited):
            continue
        edits, stretch = background.edits, len(background.edits)
        while stretch > 0:
            for start in range(0, len(edits), stretch):
                kept = edits[:start] + edits[start + stretch :]
                yield with_field(case, name, field, edited(background.background, kept))
            stretch //= 2
        for value in dict.fromkeys((plainest(case[name]), 0.0, 1.0, -1.0)):
            yield with_field(case, name, field, Edited(Constant(value), edits))


def _nearer(value: float) -> list[float]:
    """Return simpler finite values between 0 and a finite one: rounded, halved, smaller by one."""
    unit = UNIT if abs(value) > UNIT and value % UNIT == 0 else 1
    whole, sign = int(abs(value) / unit), math.copysign(unit, value)
    halves = [sign * n for n in (whole, whole // 2, whole - whole // 4, whole - 1)]
    short = [float(f"{value:.{n}g}") for n in (1, 2, 3)]
    power = f"{abs(value):.0e}"[1:]
    return [*halves, *(math.copysign(float(f"{n}{power}"), value) for n in range(1, 10)), *short]


def plainer_value(value: float, least: float) -> list[float]:
    """Return simpler values: `least`, 0, small integers, powers of ten, then those of `_nearer`."""
    sign, finite = -1.0 if value < 0 else 1.0, math.isfinite(value)
    some = [least, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0, *(n * float(UNIT) for n in (1, -1, 2, -2)), 0.5, 0.1]
    some += [sign * 10.0**n for n in range(1, 309) if 10.0**n < (abs(value) if finite else 1e5)]
    some += _nearer(value) if finite else [math.inf, -math.inf]
    limit = value_size(value, least)
    return [x for x in dict.fromkeys(some) if value_size(x, least) < limit]


def plainer_in(recipe: Any, least: float) -> Iterator[Any]:
    """Yield copies of the recipe, tuple or number in which one number is simpler."""
    if isinstance(recipe, int):
        yield from dict.fromkeys(n for n in (0, recipe // 2, recipe - 1) if 0 <= n < recipe)
    elif isinstance(recipe, float):
        yield from plainer_value(recipe, least)
    elif isinstance(recipe, tuple):
        for n, item in enumerate(recipe):
            for plain in plainer_in(item, least):
                yield (*recipe[:n], plain, *recipe[n + 1 :])
    elif isinstance(recipe, Recipe):
        for name in (field.name for field in fields(recipe) if field.name != "shape"):  # type: ignore[arg-type]
            for plain in plainer_in(getattr(recipe, name), least):
                yield replace(recipe, **{name: plain})  # type: ignore[type-var]


def plainer_numbers(case: Case) -> Iterator[Case]:
    """Replace one number of the case, a value or an index, by a simpler one."""
    for name, part in case.items():
        for plain in plainer_in(part, plainest(part)):
            yield {**case, name: plain}
