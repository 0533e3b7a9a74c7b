"""The regimes of gates, one row each. The search, the ladder, the restarts and the reports read the rows.

To add a regime, write its row into REGIMES, above every row whose `contains` would also accept its gates.

The values of several regimes form one list, sorted by rank: the search shrinks to the first values, and the
ladder begins with them. Two regimes may have the same rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import itemgetter
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dmat.strategies.choose import Draw, between, choose
from dmat.strategies.recipes.backgrounds import (
    Array,
    Background,
    Constant,
    Edited,
    Heads,
    Ramp,
    Shape,
    inf,
    nan,
)
from dmat.strategies.recipes.gates import UNIT, Gates, MinusWindow, special

Item = TypeVar("Item")
Mask = npt.NDArray[np.bool_]
Floats = tuple[float, ...]
Ranked = Mapping[int, Item]  # by rank
Pair = tuple[Background, Background]  # (input gate, forget gate)

DTILDE, FUSED = "D~", "fused"
LARGEST_ORDINARY, LARGEST_SATURATED = 8.0, 1000.0


@dataclass(frozen=True)
class GateFormat:
    """The format of a kernel's gates. log: whether the forget gate is a log gate, at most 0."""

    kind: str
    dtype: str
    special_values: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class HeadValues:
    """The values of gates before they are rounded to the dtype, one row a head.

    igate, fgate: (heads, S). cancelling: the input gate is minus the sum of a window (MinusWindow), and igate
    a zero for each head.
    """

    dtype: str
    igate: Array
    fgate: Array
    cancelling: bool = False

    @classmethod
    def of(cls, gates: Gates, number: int) -> Self:
        """Return the first heads of these gates, `number` of them; if it is 1, all heads as one row."""
        rows = min(number, math.prod(gates.shape[:2])) if number > 1 and 0 not in gates.shape else 1
        igate, fgate = (None if x is None else _in_rows(x, rows) for x in gates.filled)
        assert fgate is not None
        cancelling = igate is None
        return cls(gates.dtype, np.zeros((rows, 1)) if igate is None else igate, fgate, cancelling)

    @cached_property
    def size(self) -> Array:
        """The largest magnitude of each head, in both gates; NaN if a gate is NaN."""
        igate, fgate = (np.abs(gate).max(-1, initial=0.0) for gate in (self.igate, self.fgate))
        return np.asarray(np.maximum(igate, fgate))

    def all(self, answer: bool) -> Mask:
        """Return this answer for each head."""
        return np.full(len(self.fgate), answer)


def _in_rows(gate: Array, rows: int) -> Array:
    return gate.reshape(1, -1) if rows == 1 else gate.reshape(-1, gate.shape[-1])[:rows]


def _nothing(*_: object) -> dict[int, Floats]:
    return {}


def _no_spikes(gates: GateFormat, S: int) -> dict[int, list[Pair]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One regime of gates.

    contains: which heads the regime accepts, (heads,); a head belongs to the first regime that accepts it.
    kinds: the kinds of kernels for which its values are drawn. palettes: values that are drawn together,
    for both gates of a D~ kernel and for the forget gate of a fused kernel. draw_igate: draws an input gate
    of D~ kernels that no palette gives. constants: constant forget gates of the ladder's shortest cases.
    spikes: gates of the ladder's cases of length S. restarts: constant forget gates that shrinking restarts
    from; long_restarts: the few of them that it uses for long sequences.
    """

    name: str
    contains: Callable[[HeadValues], Mask]
    kinds: tuple[str, ...] = (DTILDE, FUSED)
    palettes: Callable[[GateFormat], Ranked[Floats]] = _nothing
    draw_igate: Callable[[Draw, Shape], Background] | None = None
    constants: Callable[[GateFormat], Ranked[Floats]] = _nothing
    spikes: Callable[[GateFormat, int], Ranked[list[Pair]]] = _no_spikes
    restarts: Ranked[Floats] = field(default_factory=dict)
    long_restarts: Ranked[Floats] = field(default_factory=dict)


# The values are float64. A recipe rounds each to its dtype.

ORDINARY = tuple(n / 8 for n in range(41)) + tuple(-n / 8 for n in range(1, 41))
NEARLY_OPEN = (-1e-6, -1e-3, -0.05)  # log gates
OPEN = (
    *(8.0, 12.0, 15.0, 16.5, 17.0, 18.0, 20.0, 20.5, 21.0, 25.0, 33.0, 36.5, 37.0, 40.0),
    *(64.0, 80.0, 87.5, 88.0, 89.0, 90.0, 96.0, 103.0, 104.0, 110.0),
    *(600.0, 700.0, 709.0, 710.0, 740.0, 744.0, 745.0, 746.0, 800.0),
)
CLOSED = tuple(-value for value in (*OPEN, 16.0, 36.0, 60.0, 100.0))
OF_UNDERFLOW = (-15.0, -16.5, -60.0, -87.0, -88.0, -89.0, -103.0, -104.0, -700.0, -746.0)  # log gates
EXPONENT_EDGES = (21.0, -21.0, 89.0, -89.0, 105.0, -105.0, 746.0, -746.0)


def _negative(values: Floats) -> Floats:
    return tuple(-abs(value) for value in values)


# Ordinary gates, and gates of zero


def _ordinary(gates: GateFormat) -> Ranked[Floats]:
    return {1: _negative(ORDINARY), 3: NEARLY_OPEN} if gates.log else {0: ORDINARY}


def _ordinary_constants(gates: GateFormat) -> Ranked[Floats]:
    return {2: (-1.0,)} if gates.log or gates.kind == DTILDE else {}


def _zeros(gates: GateFormat) -> Ranked[Floats]:
    if gates.kind == DTILDE:
        return {4: (0.0, -0.0)}
    return {0 if gates.log else 4: (0.0,)}


# Input gates that cancel a window's sum


def _draw_minus_window(draw: Draw, shape: Shape) -> Background:
    if choose(draw, (True, False)):
        return MinusWindow()
    return MinusWindow(between(draw, 0, max(0, shape[-1] - 1)))


# Subnormal gates


def subnormal(dtype: str) -> Floats:
    """Return numbers around the smallest normal number of the dtype, both signs."""
    info = torch.finfo(getattr(torch, dtype))
    least = info.smallest_normal * info.eps  # the smallest subnormal
    sizes = (least, 3 * least, info.smallest_normal / 2, info.smallest_normal)
    return tuple(s * size for size in sizes for s in (-1, 1))


def _subnormal(gates: GateFormat) -> Ranked[Floats]:
    values = subnormal(gates.dtype)
    return {6: _negative(values) if gates.log else values}


def _is_subnormal(heads: HeadValues) -> Mask:
    least = torch.finfo(getattr(torch, heads.dtype)).smallest_normal
    tiny = [((gate != 0) & (np.abs(gate) < least)).any(-1) for gate in (heads.igate, heads.fgate)]
    return np.asarray(tiny[0] | tiny[1])


# Saturated gates, around the edges of exp


def _saturated(gates: GateFormat) -> Ranked[Floats]:
    return {2: OF_UNDERFLOW, 4: _negative(OPEN)} if gates.log else {1: OPEN, 2: CLOSED}


def _saturated_constants(gates: GateFormat) -> Ranked[Floats]:
    if gates.kind == DTILDE:
        return {3: EXPONENT_EDGES}
    return {3: (-20.0, -89.0)} if gates.log else {0: (100.0,), 3: (-20.0, -89.0)}


# Extreme gates


def extreme(dtype: str) -> Floats:
    """Return magnitudes up to the largest finite number of the dtype, both signs."""
    largest = torch.finfo(getattr(torch, dtype)).max
    sizes = [size for size in (1e3, 1e4, 6e4, 1e8, 1e15, 1e30, 1e100, 1e300) if size < largest]
    return tuple(s * size for size in (*sizes, largest / 4, largest / 2, largest) for s in (-1, 1))


def _extreme(gates: GateFormat) -> Ranked[Floats]:
    values = extreme(gates.dtype)
    return {5: _negative(values) if gates.log else values}


def _spike(gates: GateFormat, S: int) -> Ranked[list[Pair]]:
    """Return gates with a spike of -1e4 in the first forget gate.

    The later gates of fused kernels are small and not integers, so a sum that includes the spike loses
    digits of them.
    """
    later = 0.0 if gates.kind == DTILDE else -0.3 if gates.log else 3.0
    return {0: [(Ramp(1.0, 1.0), Edited(Constant(later), (((0, 0, 0), -1e4),)))]}


# Special values


def _special(gates: GateFormat) -> Ranked[Floats]:
    values = special(gates.special_values)
    return {7: (*values, 0.0, -1.0, 1.0)} if values else {}


def _special_spikes(gates: GateFormat, S: int) -> Ranked[list[Pair]]:
    """Return two pairs for each special value: in the last forget gate, and in the middle input gate."""
    pairs: list[Pair] = []
    for value in special(gates.special_values):
        pairs.append((Constant(0.0), Edited(Constant(-1.0), (((0, 0, S - 1), value),))))
        pairs.append((Edited(Constant(1.0), (((0, 0, S // 2), value),)), Constant(-1.0)))
    return {1: pairs}


# Exact gates: the integers of docs/spec.md section 4. drawing.py draws them for the laws of exact sums.


def _is_exact(heads: HeadValues) -> Mask:
    closed = np.where(heads.fgate == inf, -UNIT, heads.fgate)
    with np.errstate(invalid="ignore"):
        integer = (closed <= -UNIT) & (closed % UNIT == 0) & (heads.igate % UNIT == 0)  # inf % UNIT is NaN
    return np.asarray(integer.all(-1))


REGIMES = (
    Regime(name="empty", contains=lambda heads: heads.all(heads.fgate.size == 0)),  # of shapes.py
    Regime(name="exact", contains=_is_exact, restarts={2: (-64.0,)}),
    Regime(
        name="special",
        contains=lambda heads: ~np.isfinite(heads.size),
        kinds=(DTILDE,),  # a separate law tests the resets of fused kernels
        palettes=_special,
        spikes=_special_spikes,
        restarts={4: (-inf, inf, nan)},
    ),
    Regime(
        name="extreme",
        contains=lambda heads: heads.size > LARGEST_SATURATED,
        palettes=_extreme,
        spikes=_spike,
    ),
    Regime(
        name="saturated",
        contains=lambda heads: heads.size > LARGEST_ORDINARY,
        palettes=_saturated,
        constants=_saturated_constants,
        restarts={3: (21.0, -21.0, 105.0, -105.0, -746.0)},
        long_restarts={1: (-105.0, 21.0)},
    ),
    Regime(name="subnormal", contains=_is_subnormal, palettes=_subnormal),
    Regime(
        name="cancelling",
        contains=lambda heads: heads.all(heads.cancelling),
        kinds=(DTILDE,),  # the input gates of fused kernels must lie in the contract's i_range
        palettes=lambda gates: {3: ORDINARY},  # again: moderate window sums are drawn twice as often
        draw_igate=_draw_minus_window,
    ),
    Regime(
        name="zeros",
        contains=lambda heads: np.asarray(~heads.fgate.any(-1)),
        palettes=_zeros,
        constants=lambda gates: {1: (0.0,)},
        restarts={0: (0.0,)},
        long_restarts={0: (0.0,)},
    ),
    Regime(
        name="ordinary",
        contains=lambda heads: heads.all(True),
        palettes=_ordinary,
        constants=_ordinary_constants,
        restarts={1: (-1.0, 1.0)},
    ),
)
NAMES = tuple(regime.name for regime in REGIMES)


# The functions that other modules call


def regime_of(gates: Gates) -> str:
    """Return the name of the regime of all heads together: the first row of REGIMES that accepts them."""
    return _regimes(HeadValues.of(gates, 1))[0]


def regimes_of(gates: Gates) -> list[str]:
    """Return the regime of each different head of the gates; one regime if all have one background."""
    numbers = [len(x.backgrounds) for x in (gates.igate, gates.fgate) if isinstance(x, Heads)]
    return _regimes(HeadValues.of(gates, math.lcm(*numbers)))


def _regimes(heads: HeadValues) -> list[str]:
    names, left = [""] * len(heads.fgate), heads.all(True)
    for regime in REGIMES:
        accepted = regime.contains(heads) & left
        for n in np.flatnonzero(accepted):
            names[n] = regime.name
        left &= ~accepted
        if not left.any():
            break
    return names


def _in_order(ranked: Iterable[Ranked[Item]]) -> tuple[Item, ...]:
    """Return the items sorted by rank; items of equal rank keep the order of their rows."""
    items = [item for some in ranked for item in some.items()]
    return tuple(item for _, item in sorted(items, key=itemgetter(0)))


def _flat(ranked: Iterable[Ranked[Floats]]) -> Floats:
    return tuple(value for values in _in_order(ranked) for value in values)


def _rows(kind: str) -> list[Regime]:
    return [regime for regime in REGIMES if kind in regime.kinds]


@cache
def palettes(gates: GateFormat) -> tuple[Floats, ...]:
    """Return the palettes of every regime: each is a tuple of values that are drawn together."""
    return _in_order(regime.palettes(gates) for regime in _rows(gates.kind))


@cache
def constants(gates: GateFormat) -> Floats:
    """Return the constant forget gates of the ladder."""
    return _flat(regime.constants(gates) for regime in _rows(gates.kind))


def spikes(gates: GateFormat, S: int) -> list[Pair]:
    """Return the (igate, fgate) pairs of the ladder's cases of length S."""
    found = _in_order(regime.spikes(gates, S) for regime in _rows(gates.kind))
    return [pair for pairs in found for pair in pairs]


IGATE_DRAWS = tuple(regime.draw_igate for regime in REGIMES if regime.draw_igate is not None)
RESTARTS = _flat(regime.restarts for regime in REGIMES)
LONG_RESTARTS = _flat(regime.long_restarts for regime in REGIMES)
