"""Small recipes as cases of a law, for the exhaustive search for the shortest failing case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from dmat.strategies import Constant, Cotangent, Edited, Gates, Ramp, Row
from dmat.strategies.recipes.backgrounds import Background
from dmat.strategies.recipes.recipe import Case
from dmat.testing.law.law import Law

# Small recipes: constants, one spike, two values; ones, one place, the last row, one large place

CRITICAL = (0.0, -1.0, -64.0, 21.0, -21.0, 105.0, -105.0, -746.0, torch.inf, -torch.inf, torch.nan)
FEW = (0.0, -64.0, -105.0)
HEAVY = {"bfloat16": 2.0**8, "float16": 2.0**11, "float32": 2.0**26, "float64": 2.0**55}  # beside ones
EMPTY = ((1, 1, 0), (0, 1, 1), (1, 0, 1))
HEADS = ((1, 2), (2, 1), (1, 3), (2, 2))
UNEVEN = (Ramp(-64.0, 0.0, -64.0), Ramp(1.0, 0.0, 1.0))  # each head another
SLOPE = Ramp(0.1, 0.1, 0.1)  # no order of summation like another


def fgates(S: int) -> Iterator[Background]:
    yield from (Constant(value) for value in (CRITICAL if S <= 3 else FEW))
    yield SLOPE
    yield from (Edited(Constant(1.0), (((0, 0, n), 0.0),)) for n in range(1, min(S, 3)))
    for value, place in product((-8.0, -128.0), {0, S - 1}) if S <= 3 else ():
        yield Edited(Constant(-64.0 if value < -64 else 0.0), (((0, 0, place), value),))


def igates(S: int, dtype: str) -> Iterator[Background]:
    yield Constant(0.0)
    if S <= 3:
        yield from (Constant(value) for value in (1.0, torch.inf))
        yield Edited(Constant(1.0), (((0, 0, 0), HEAVY[dtype]),))
        yield Edited(Constant(0.0), (((0, 0, 0), 64.0),))


def one_head(dtype: str, shape: tuple[int, int, int], forward: bool) -> Iterator[Gates]:
    """Yield gates of one head; forward: those too that differ in what no gradient depends on."""
    S = shape[-1]
    for igate, fgate in product(igates(S, dtype), fgates(S)):
        if igate == Constant(0.0) or (forward and isinstance(fgate, Constant)):
            yield Gates(dtype, shape, igate, fgate)
    yield Gates(dtype, shape, Constant(64.0), Constant(-64.0), "strided", "strided")


def cotangents(gates: Gates, masked: tuple[float, ...]) -> Iterator[Cotangent]:
    yield from (Cotangent(masked=value) for value in masked)
    S = gates.shape[-1]
    if gates.shape[:2] == (1, 1) and 0 < S <= 3:
        yield from (Cotangent(layout=layout) for layout in ("matrix transposed", "expanded over all"))
        yield from (Cotangent(values) for values in (Row(1.0), Constant(0.1), Constant(256.0), SLOPE))
        for heavy in {HEAVY[gates.dtype], 2.0**26} if gates.dtype != "float16" else {HEAVY["float16"]}:
            yield Cotangent(Edited(Constant(1.0), (((0, 0, 0, 0), heavy),)))
        yield Cotangent(Edited(Constant(0.0), (((0, 0, S - 1, 0), 1.0),)))
        yield Cotangent(Edited(Constant(1.0), (((0, 0, S // 2, 0), -0.001),)))
    if gates.shape[:2] == (1, 1) and S == 3:
        cancelling = (((0, 0, 0, 0), 2.0**26), ((0, 0, 1, 0), -(2.0**26)))
        yield Cotangent(Edited(Constant(1.0), cancelling))


def all_gates(dtype: str, shape: tuple[int, int, int], forward: bool) -> Iterator[Gates]:
    if shape[:2] == (1, 1) and 0 not in shape:
        yield from one_head(dtype, shape, forward)
    else:
        for layout, fgate in product(("contiguous", "strided"), (Constant(0.0), *UNEVEN)):
            yield Gates(dtype, shape, Constant(0.0), fgate, layout, layout)


def options(name: str, gates: Gates, law: Law) -> list[Any]:
    """Return the values that the argument of this name may take beside these gates."""
    B, NH, S = gates.shape
    match name:
        case "cotangent":
            return list(cotangents(gates, (1.0, torch.inf) if law.name == "masked_cotangent" else (0.0,)))
        case "rival" | "direction":
            values = (0.0, 1.0, -torch.inf) if name == "rival" else (1.0,)
            return [replace(gates, igate=Constant(x), fgate=Constant(x)) for x in values]
        case "head":
            return list(product(range(B), range(NH)))
        case _:
            return sorted({0, S // 2, S - 1, S}) if S > 3 else list(range(S + 1))


def small_cases(law: Law, dtype: str, shape: tuple[int, int, int]) -> Iterator[Case]:
    """Yield the small recipes of one shape, as cases of this law."""
    names = law.parameters
    for gates in all_gates(dtype, shape, "cotangent" not in names):
        others = [options(name, gates, law) for name in names if name != "gates"]
        yield from (dict(zip(names, (gates, *parts), strict=True)) for parts in product(*others))
