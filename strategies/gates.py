"""Gate tensors as recipes, the regimes they are drawn from, and the search over them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from dmat.strategies.choose import Draw, between, choose, seed, some
from dmat.strategies.layouts import GATE_LAYOUTS, PER_HEAD, SAME_VALUES, lay_out
from dmat.strategies.recipe import Recipe
from dmat.strategies.shapes import draw_shape
from dmat.strategies.values import (
    Array,
    Background,
    Constant,
    Cycle,
    Edited,
    Normal,
    Palette,
    Ramp,
    Shape,
    rounded,
)

SPECIAL_VALUES = {"-inf": -np.inf, "+inf": np.inf, "nan": np.nan}
UNIT = 64  # the step of the exact regime: log sigmoid(-64 n) rounds to -64 n in every format


@dataclass(frozen=True, repr=False)
class MinusWindow(Background):
    """For the input gate alone: i[s] = -(sum of log sigmoid(f) over the window down to row t)."""

    t: int = -1

    def fill(self, shape: Shape) -> Array:
        """Raise: the values depend on the forget gate, so Gates fills them."""
        raise TypeError("MinusWindow fills an input gate only: it needs the forget gate")

    def against(self, fgate: Array) -> Array:
        """Return the input gate that cancels the window (t, s) of these forget gates, in float64."""
        log_sigmoid = -np.logaddexp(0.0, -np.where(np.isfinite(fgate), fgate, 0.0))
        if not -fgate.shape[-1] <= self.t < fgate.shape[-1]:
            return np.zeros(fgate.shape)
        last = self.t % fgate.shape[-1]
        log_sigmoid[..., last + 1 :] = 0.0
        # sum over s < k <= t: the suffix sum that begins after s
        with np.errstate(over="ignore"):
            suffix = np.flip(np.cumsum(np.flip(log_sigmoid, -1), -1), -1)
        cancelling = -np.concatenate([suffix[..., 1:], np.zeros_like(suffix[..., :1])], -1)
        finite: Array = np.minimum(cancelling, np.finfo(np.float64).max)  # where the sum overflows too
        return finite


@dataclass(frozen=True, repr=False)
class Gates(Recipe):
    """A recipe for igate_preact and fgate_preact, each (B, NH, S, 1) of one dtype.

    dtype: "float64", "float32", "bfloat16" or "float16". shape: (B, NH, S).
    igate, fgate: what stands in them, rounded to dtype. The layouts are names of GATE_LAYOUTS.
    """

    dtype: str
    shape: tuple[int, int, int]
    igate: Background = Constant(0.0)
    fgate: Background = Constant(0.0)
    igate_layout: str = "contiguous"
    fgate_layout: str = "contiguous"

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return both gates contiguous on the CPU, (B, NH, S, 1), as the recipe's values read."""
        dtype = getattr(torch, self.dtype)
        fgate = self.fgate.fill(self.shape)
        if isinstance(self.igate, MinusWindow):
            igate = self.igate.against(rounded(fgate, dtype).double().numpy())
        else:
            igate = self.igate.fill(self.shape)
        return rounded(igate, dtype).unsqueeze(-1), rounded(fgate, dtype).unsqueeze(-1)

    def lay_out(
        self, igate: Tensor, fgate: Tensor, device: str = "cpu", filler: float = float("nan")
    ) -> tuple[Tensor, Tensor]:
        """Put any two (B, NH, S, 1) tensors on `device`, in this recipe's layouts."""
        return (
            lay_out(igate.to(device), self.igate_layout, filler),
            lay_out(fgate.to(device), self.fgate_layout, filler),
        )

    def build(self, device: str = "cpu", filler: float = float("nan")) -> tuple[Tensor, Tensor]:
        """Return (igate_preact, fgate_preact), each (B, NH, S, 1), in their layouts on `device`.

        filler: what stands in the memory around them.
        """
        return self.lay_out(*self.dense(), device, filler)

    def values(self) -> tuple[Array, Array]:
        """Return both gates as they are built, (B, NH, S), float64."""
        same = {self.igate_layout, self.fgate_layout} <= set(SAME_VALUES)
        igate, fgate = (gate.double().numpy()[..., 0] for gate in (self.dense() if same else self.build()))
        return igate, fgate


# Regimes: the values that are drawn together. Values are float64; each is rounded to the dtype.

ORDINARY = tuple(n / 8 for n in range(41)) + tuple(-n / 8 for n in range(1, 41))
OPEN = (
    *(8.0, 12.0, 15.0, 16.5, 17.0, 18.0, 20.0, 20.5, 21.0, 25.0, 33.0, 36.5, 37.0, 40.0),
    *(64.0, 80.0, 87.5, 88.0, 89.0, 90.0, 96.0, 103.0, 104.0, 110.0),
    *(600.0, 700.0, 709.0, 710.0, 740.0, 744.0, 745.0, 746.0, 800.0),
)
CLOSED = tuple(-value for value in (*OPEN, 16.0, 36.0, 60.0, 100.0))
ZEROS = (0.0, -0.0)


def extreme(dtype: str) -> tuple[float, ...]:
    """Return magnitudes up to the largest finite number of the dtype, both signs."""
    largest = torch.finfo(getattr(torch, dtype)).max
    sizes = [size for size in (1e3, 1e4, 6e4, 1e8, 1e15, 1e30, 1e100, 1e300) if size < largest]
    return tuple(s * size for size in (*sizes, largest / 4, largest / 2, largest) for s in (-1, 1))


def subnormal(dtype: str) -> tuple[float, ...]:
    """Return numbers around the smallest normal number of the dtype, both signs."""
    info = torch.finfo(getattr(torch, dtype))
    least = info.smallest_normal * info.eps  # the smallest subnormal
    sizes = (least, 3 * least, info.smallest_normal / 2, info.smallest_normal)
    return tuple(s * size for size in sizes for s in (-1, 1))


def special(special_values: Collection[str]) -> tuple[float, ...]:
    """Return the infinities and NaN that a contract declares, by their names."""
    unknown = set(special_values) - set(SPECIAL_VALUES)
    if unknown:
        raise ValueError(f"special_values has {sorted(unknown)}; expected some of {list(SPECIAL_VALUES)}")
    return tuple(SPECIAL_VALUES[name] for name in SPECIAL_VALUES if name in special_values)


@cache
def _palettes(dtype: str, special_values: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    palettes = (ORDINARY, OPEN, CLOSED, ORDINARY, ZEROS, extreme(dtype), subnormal(dtype))
    specials = special(special_values)
    return (*palettes, (*specials, 0.0, -1.0, 1.0)) if specials else palettes


def draw_background(draw: Draw, values: Sequence[float]) -> Background:
    """Draw a background made of these values: constant first, seeded last."""
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
    """Draw up to three edits; the first place of a sequence, where spikes hide bugs, is favoured."""
    number = 0 if 0 in shape else choose(draw, (0, 0, 1, 0, 1, 2, 3))
    edits = []
    for _ in range(number):
        heads = tuple(between(draw, 0, axis - 1) for axis in shape[:-1])
        time = between(draw, 0, shape[-1] - 1) if choose(draw, (True, True, False)) else 0
        edits.append(((*heads, time), choose(draw, choose(draw, palettes))))
    return Edited(background, tuple(edits)) if edits else background


def _field(draw: Draw, shape: Shape, palettes: Sequence[Sequence[float]]) -> Background:
    """Draw one gate: mostly a few values of one regime, else a ramp or noise; then edits."""
    kind = between(draw, 0, 9)
    if kind <= 6:
        background = draw_background(draw, choose(draw, palettes))
    else:
        background = _ramp(draw) if kind == 7 else _normal(draw)
    return edited_field(draw, background, shape, palettes)


def _minus_window(draw: Draw, shape: Shape) -> Background:
    if choose(draw, (True, False)):
        return MinusWindow()
    return MinusWindow(between(draw, 0, max(0, shape[-1] - 1)))


def draw_layout(draw: Draw, names: Sequence[str]) -> str:
    """Draw "contiguous" half of the time, else one of the names."""
    return choose(draw, ("contiguous",) * len(names) + tuple(names))


def draw_gates(
    draw: Draw,
    dtype: str = "float32",
    special_values: tuple[str, ...] = tuple(SPECIAL_VALUES),
    shape: tuple[int, int, int] = (1, 1, 1),
    expanded: bool = True,
) -> Gates:
    """Draw gates of this shape, of any regime; see `gates`."""
    palettes = _palettes(dtype, special_values)
    fgate = _field(draw, shape, palettes)
    kind = choose(draw, ("zero", "field", "field", "field", "minus window"))
    if kind == "zero":
        igate: Background = Constant(0.0)
    else:
        minus = kind == "minus window"
        igate = _minus_window(draw, shape) if minus else _field(draw, shape, palettes)
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

    special_values, zero_length, seq_multiple_of and max_seq are fields of the contract. `expanded`
    False leaves out the layouts of stride 0, in which places cannot be changed one by one.
    """
    shape = draw_shape(draw, zero_length, seq_multiple_of, max_seq)
    return draw_gates(draw, dtype, tuple(special_values), shape, expanded)


def significand_bits(dtype: str) -> int:
    """Return p: integers up to 2^p are exact in this dtype."""
    return 1 - int(np.log2(torch.finfo(getattr(torch, dtype)).eps))


def exact_units(dtype: str, accumulator: str) -> int:
    """Return the most units of 64 that max |i| + sum |f| may reach (docs/spec.md section 4)."""
    narrower = min(significand_bits(dtype), significand_bits(accumulator))
    return min(1023, 2**narrower) if dtype == "float16" else int(2**narrower)


def draw_exact_gates(
    draw: Draw,
    dtype: str,
    accumulator: str,
    special_values: tuple[str, ...],
    shape: tuple[int, int, int],
    seq_multiple_of: int = 1,
) -> Gates:
    """Draw gates of the exact regime of at most this length; see `exact_gates`."""
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

    f is -64 n with n >= 1, or +inf where declared; i is a multiple of 64; max |i| + sum |f| over
    the whole sequence stays within what the narrower of dtype and accumulator holds exactly.
    """
    shape = draw_shape(draw, zero_length, seq_multiple_of, max_seq)
    return draw_exact_gates(draw, dtype, accumulator, tuple(special_values), shape, seq_multiple_of)
