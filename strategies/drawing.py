"""Draw gates: of any regime, or of the exact regime (docs/spec.md section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np
from hypothesis import strategies as st

from dmat.strategies.choose import Draw, between, choose, seed, some
from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Edited,
    Heads,
    Normal,
    Palette,
    Ramp,
    Shape,
)
from dmat.strategies.recipes.gates import SPECIAL_VALUES, UNIT, Gates, exact_units
from dmat.strategies.recipes.layouts import GATE_LAYOUTS, PER_HEAD, SAME_VALUES, draw_layout
from dmat.strategies.regimes import DTILDE, IGATE_DRAWS, ORDINARY, GateFormat, palettes
from dmat.strategies.shapes import draw_shape

GatesShape = tuple[int, int, int]


def draw_background(draw: Draw, values: Sequence[float]) -> Background:
    """Draw a background made of these values. Shrinks to a constant; a seeded palette comes last."""
    kind = choose(draw, ("constant", "cycle", "palette"))
    if kind == "constant":
        return Constant(choose(draw, values))
    if kind == "cycle":
        return Cycle(some(draw, values, 2, 5))
    return Palette(seed(draw), some(draw, values, 2, 5))


def _ramp(draw: Draw) -> Background:
    step, head_step = choose(draw, (0.0, 0.125, -0.125, 1.0, -1.0)), choose(draw, (0.5, -0.5, 3.0))
    return Ramp(choose(draw, ORDINARY), step, head_step)


def _normal(draw: Draw) -> Background:
    scale = choose(draw, (1.0, 0.25, 3.0, 10.0, 30.0, 100.0, 1000.0))
    return Normal(seed(draw), scale, choose(draw, (0.0, 3.0, -3.0, 6.0, 12.0, -20.0)))


def edited_field(
    draw: Draw, background: Background, shape: Shape, palettes: Sequence[Sequence[float]]
) -> Background:
    """Draw up to three edits. Time 0 is drawn more often: bugs show there when one gate is a spike."""
    number = 0 if 0 in shape else choose(draw, (0, 0, 1, 0, 1, 2, 3))
    edits = []
    for _ in range(number):
        heads = tuple(between(draw, 0, axis - 1) for axis in shape[:-1])
        time = between(draw, 0, shape[-1] - 1) if choose(draw, (True, True, False)) else 0
        edits.append(((*heads, time), choose(draw, choose(draw, palettes))))
    return Edited(background, tuple(edits)) if edits else background


def _field(draw: Draw, shape: Shape, palettes: Sequence[Sequence[float]]) -> Background:
    """Draw one gate's background: mostly a few values of one regime, else a ramp or noise; then edits."""
    kind = between(draw, 0, 9)
    if kind <= 6:
        background = draw_background(draw, choose(draw, palettes))
    else:
        background = _ramp(draw) if kind == 7 else _normal(draw)
    return edited_field(draw, background, shape, palettes)


def distinct_heads(draw: Draw, shape: GatesShape) -> tuple[int, int]:
    """Draw how many backgrounds the heads have for the input gate and for the forget gate.

    0: one background for all heads. Two and three are coprime: six heads of them all differ.
    """
    heads = math.prod(shape[:-1])
    if heads <= 1 or choose(draw, (True, True, False)) is False:
        return 0, 0
    return min(2, heads), min(3, heads)


def of_heads(draw: Callable[[GatesShape], Background], shape: GatesShape, number: int) -> Background:
    """Draw a background for all heads, or `number` of them which the heads have in turn.

    draw: draws a background for a tensor of this shape.
    """
    if number == 0:
        return draw(shape)
    return Heads(tuple(draw((1, 1, shape[-1])) for _ in range(number)))


def _no_igate(draw: Draw, shape: Shape) -> Background:
    return Constant(0.0)


def draw_gates(
    draw: Draw,
    dtype: str = "float32",
    special_values: tuple[str, ...] = tuple(SPECIAL_VALUES),
    shape: tuple[int, int, int] = (1, 1, 1),
    expanded: bool = True,
) -> Gates:
    """Draw gates of this shape, of any regime; see `gates`."""
    values = palettes(GateFormat(DTILDE, dtype, special_values))
    igates, fgates = distinct_heads(draw, shape)
    fgate = of_heads(lambda one: _field(draw, one, values), shape, fgates)
    draw_igate = choose(draw, (_no_igate, None, None, None, *IGATE_DRAWS))
    if draw_igate is None:
        igate = of_heads(lambda one: _field(draw, one, values), shape, igates)
    else:
        igate = draw_igate(draw, shape)
    layouts = tuple(GATE_LAYOUTS if expanded else SAME_VALUES)
    return Gates(dtype, shape, igate, fgate, draw_layout(draw, layouts), draw_layout(draw, layouts))


@st.composite
def gates(
    draw: st.DrawFn,
    *,
    dtype: str = "float32",
    special_values: Collection[str] = tuple(SPECIAL_VALUES),
    zero_length: bool = True,
    seq_multiple_of: int = 1,
    max_seq: int | None = None,
    expanded: bool = True,
) -> Gates:
    """Draw gates of any regime: ordinary, saturated, extreme, subnormal, special, spiked, cancelling.

    special_values, zero_length, seq_multiple_of and max_seq are fields of the contract.
    expanded: whether layouts of stride 0 may be drawn; their elements cannot be changed one by one.
    """
    shape = draw_shape(draw, zero_length, seq_multiple_of, max_seq)
    return draw_gates(draw, dtype, tuple(special_values), shape, expanded)


def draw_exact_gates(
    draw: Draw,
    dtype: str,
    accumulator: str,
    special_values: tuple[str, ...],
    shape: tuple[int, int, int],
    seq_multiple_of: int = 1,
) -> Gates:
    """Draw gates of the exact regime. Their length is at most that of `shape`; see `exact_gates`."""
    budget = exact_units(dtype, accumulator)
    B, NH, S = shape
    S = min(S, (budget // 2) // seq_multiple_of * seq_multiple_of)
    most_i = choose(draw, (1, 3, budget // 8, budget // 2))
    most_f = max(1, min(budget // 2 // max(S, 1), choose(draw, (1, 3, 1000, budget))))
    forget = tuple(-float(UNIT * between(draw, 1, most_f)) for _ in range(4))
    if "+inf" in special_values:
        forget = (*forget, np.inf)
    inputs = tuple(float(UNIT * between(draw, -most_i, most_i)) for _ in range(4))
    layouts = (*SAME_VALUES, *PER_HEAD)
    return Gates(
        dtype,
        (B, NH, S),
        edited_field(draw, draw_background(draw, inputs), (B, NH, S), [inputs]),
        edited_field(draw, draw_background(draw, forget), (B, NH, S), [forget]),
        draw_layout(draw, layouts),
        draw_layout(draw, layouts),
    )


@st.composite
def exact_gates(
    draw: st.DrawFn,
    *,
    dtype: str = "float32",
    accumulator: str = "float32",
    special_values: Collection[str] = tuple(SPECIAL_VALUES),
    zero_length: bool = True,
    seq_multiple_of: int = 1,
    max_seq: int | None = None,
) -> Gates:
    """Draw gates of the exact regime (docs/spec.md section 4): every order of summation is exact.

    f is -64 n with n >= 1, or +inf if the contract declares it. i is a multiple of 64. max |i| + sum |f|
    over the whole sequence is at most 64 exact_units(dtype, accumulator), so that the narrower of the two
    formats holds every sum exactly.
    """
    shape = draw_shape(draw, zero_length, seq_multiple_of, max_seq)
    return draw_exact_gates(draw, dtype, accumulator, tuple(special_values), shape, seq_multiple_of)
