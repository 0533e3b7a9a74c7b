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
from typing import TypeVar

import numpy as np
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
class Filled:
    """The values of a recipe's gates, before they are rounded to the dtype."""

    gates: Gates

    @cached_property
    def cancelling(self) -> bool:
        """Whether the input gate is minus the sum of a window (MinusWindow)."""
        return isinstance(self.gates.igate, MinusWindow)

    @cached_property
    def fgate(self) -> Array:
        """The forget gate."""
        return self.gates.filled[1]

    @cached_property
    def igate(self) -> Array:
        """The input gate, or a single zero if it is a MinusWindow."""
        igate = self.gates.filled[0]
        return np.zeros(1) if igate is None else igate

    @cached_property
    def size(self) -> float:
        """The largest magnitude in both gates; NaN if a gate is NaN."""
        return float(np.maximum(np.abs(self.fgate).max(), np.abs(self.igate).max()))


def _nothing(*_: object) -> dict[int, Floats]:
    return {}


def _no_spikes(gates: GateFormat, S: int) -> dict[int, list[Pair]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One regime of gates.

    contains: whether the regime accepts these gates; gates belong to the first regime that does.
    kinds: the kinds of kernels for which its values are drawn. palettes: values that are drawn together,
    for both gates of a D~ kernel and for the forget gate of a fused kernel. draw_igate: draws an input gate
    of D~ kernels that no palette gives. constants: constant forget gates of the ladder's shortest cases.
    spikes: gates of the ladder's cases of length S. restarts: constant forget gates that shrinking restarts
    from; long_restarts: the few of them that it uses for long sequences.
    """

    name: str
    contains: Callable[[Filled], bool]
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


def _is_subnormal(filled: Filled) -> bool:
    least = torch.finfo(getattr(torch, filled.gates.dtype)).smallest_normal
    return any(((gate != 0) & (np.abs(gate) < least)).any() for gate in (filled.igate, filled.fgate))


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


def _is_exact(filled: Filled) -> bool:
    first = filled.fgate.flat[0]
    if first != inf and not (-inf < first <= -UNIT and first % UNIT == 0):  # one number decides most cases
        return False
    igate = filled.igate
    closed = np.where(filled.fgate == inf, -UNIT, filled.fgate)
    if not (np.isfinite(closed).all() and np.isfinite(igate).all()):
        return False
    return bool((closed <= -UNIT).all() and not (closed % UNIT).any() and not (igate % UNIT).any())


REGIMES = (
    Regime(name="empty", contains=lambda filled: 0 in filled.gates.shape),  # shapes.py draws empty shapes
    Regime(name="exact", contains=_is_exact, restarts={2: (-64.0,)}),
    Regime(
        name="special",
        contains=lambda filled: not np.isfinite(filled.size),
        kinds=(DTILDE,),  # a separate law tests the resets of fused kernels
        palettes=_special,
        spikes=_special_spikes,
        restarts={4: (-inf, inf, nan)},
    ),
    Regime(
        name="extreme",
        contains=lambda filled: filled.size > LARGEST_SATURATED,
        palettes=_extreme,
        spikes=_spike,
    ),
    Regime(
        name="saturated",
        contains=lambda filled: filled.size > LARGEST_ORDINARY,
        palettes=_saturated,
        constants=_saturated_constants,
        restarts={3: (21.0, -21.0, 105.0, -105.0, -746.0)},
        long_restarts={1: (-105.0, 21.0)},
    ),
    Regime(name="subnormal", contains=_is_subnormal, palettes=_subnormal),
    Regime(
        name="cancelling",
        contains=lambda filled: filled.cancelling,
        kinds=(DTILDE,),  # the input gates of fused kernels must lie in the contract's i_range
        palettes=lambda gates: {3: ORDINARY},  # again: moderate window sums are drawn twice as often
        draw_igate=_draw_minus_window,
    ),
    Regime(
        name="zeros",
        contains=lambda filled: not filled.fgate.any(),
        palettes=_zeros,
        constants=lambda gates: {1: (0.0,)},
        restarts={0: (0.0,)},
        long_restarts={0: (0.0,)},
    ),
    Regime(
        name="ordinary",
        contains=lambda filled: True,
        palettes=_ordinary,
        constants=_ordinary_constants,
        restarts={1: (-1.0, 1.0)},
    ),
)
NAMES = tuple(regime.name for regime in REGIMES)


# The functions that other modules call


def regime_of(gates: Gates) -> str:
    """Return the name of the gates' regime: the first row of REGIMES that contains them."""
    filled = Filled(gates)
    return next(regime.name for regime in REGIMES if regime.contains(filled))


def regimes_of(gates: Gates) -> list[str]:
    """Return the regime of each different head of the gates; one regime if all have one background."""
    parts = [x.backgrounds if isinstance(x, Heads) else (x,) for x in (gates.igate, gates.fgate)]
    number = min(math.prod(gates.shape[:2]), math.lcm(*map(len, parts)))
    if number <= 1 or isinstance(gates.igate, MinusWindow) or gates.shape[-1] == 0:
        return [regime_of(gates)]
    one = (1, 1, gates.shape[-1])
    igates, fgates = parts
    heads = (Gates(gates.dtype, one, igates[n % len(igates)], fgates[n % len(fgates)]) for n in range(number))
    return [regime_of(head) for head in heads]


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
